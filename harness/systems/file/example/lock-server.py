"""A lock service of one node: locks are leased, so that those of clients that are gone come free.

Lines over TCP: `LOCK name` answers `OK token` or `HELD`; `UNLOCK name token` answers `OK`, or `LOST` if the lock has
been given to another client. Each token is greater than the one before. Leases and tokens are on the disk before they
are answered, and survive a restart.

The bug: with `--clock wall`, a lease ends when the wall clock says so. That is easily stored, and the wall clock may be
set: then a lease ends early, and two clients have the lock. With `--clock monotonic`, a lease ends by a clock that nobody
sets. It means nothing after a restart of the machine, so at each start all leases begin anew.
"""
import argparse, json, os, socketserver, threading, time

LEASE_SECONDS = 10  # A client that lives has given its lock back by then.

parser = argparse.ArgumentParser()
parser.add_argument("--listen")
parser.add_argument("--file", help="where locks are stored")
parser.add_argument("--clock", choices=["wall", "monotonic"])
options = parser.parse_args()
now = time.time if options.clock == "wall" else time.monotonic
mutex = threading.Lock()
# The last token, and of each lock that is held its token and the end of its lease.
state = {"token": 0, "held": {}}


def load():
    if os.path.exists(options.file):
        with open(options.file) as file:
            state.update(json.load(file))
    if options.clock == "monotonic":
        for lock in state["held"].values():
            lock["until"] = now() + LEASE_SECONDS


def store():
    """Replaces the file as a whole."""
    os.makedirs(os.path.dirname(options.file), exist_ok=True)
    with open(options.file + ".new", "w") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(options.file + ".new", options.file)
    directory = os.open(os.path.dirname(options.file), os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def take(name):
    with mutex:
        held = state["held"].get(name)
        if held and now() < held["until"]:
            return "HELD"
        state["token"] += 1
        state["held"][name] = {"token": state["token"], "until": now() + LEASE_SECONDS}
        store()
        return f"OK {state['token']}"


def give_back(name, token):
    with mutex:
        held = state["held"].get(name)
        if not held or held["token"] != int(token):
            return "LOST"
        del state["held"][name]
        store()
        return "OK"


class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            command, *words = line.decode().split()
            answer = take(*words) if command == "LOCK" else give_back(*words)
            self.wfile.write(f"{answer}\n".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


load()
host, port = options.listen.split(":")
Server((host, int(port)), Connection).serve_forever()
