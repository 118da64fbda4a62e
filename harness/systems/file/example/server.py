"""A replicated key/value store: n1 is the primary, the others are replicas.

Lines over TCP: `GET k` answers `VALUE v` or `NONE`; `SET k v` answers `OK`; `CAS k old new` answers `OK` or `MISMATCH`;
`ERR why` means that nothing was done. A connection that ends without an answer means that nobody knows.

The bug: the primary acknowledges a write before the replicas have it, and replicas answer reads from what they
have. With `--reads primary`, replicas pass reads on to the primary, which is the repair.

With `--sync`, a write is on the disk before it is acknowledged. Without, a loss of power takes it back.
"""
import argparse, os, socket, socketserver, threading

parser = argparse.ArgumentParser()
parser.add_argument("--name")
parser.add_argument("--listen")
parser.add_argument("--primary", help="the address of the primary")
parser.add_argument("--peers", default="", help="the addresses of the other nodes")
parser.add_argument("--log", help="the file of the primary's writes")
parser.add_argument("--sync", action="store_true")
parser.add_argument("--reads", choices=["local", "primary"], default="local")
options = parser.parse_args()
address = lambda text: (text.split(":")[0], int(text.split(":")[1]))
is_primary = options.listen == options.primary
data, log, lock, changed = {}, [], threading.Lock(), threading.Condition()


def write(key, value, expected=None):
    """Makes a write durable against a kill, and applies it."""
    with lock:
        if expected is not None and data.get(key, "-") != expected:
            return "MISMATCH"
        try:
            with open(options.log, "a") as file:
                file.write(f"{key} {value}\n")
                file.flush()
                if options.sync:
                    os.fsync(file.fileno())
        except OSError as error:
            # What a failed sync has left is not known. The next start reads what is there.
            print(f"{options.name} ends: {error}", flush=True)
            os._exit(1)
        data[key] = value
        log.append((key, value))
    with changed:
        changed.notify_all()
    return "OK"


def replicate(peer):
    """Sends every write to a replica, from the first one on after each new connection."""
    while True:
        try:
            with socket.create_connection(address(peer), timeout=1) as replica:
                replica.settimeout(None)
                sent = 0
                while True:
                    with changed:
                        changed.wait_for(lambda: len(log) > sent)
                    for key, value in log[sent:]:
                        replica.sendall(f"APPLY {key} {value}\n".encode())
                        sent += 1
        except OSError:
            threading.Event().wait(0.1)


class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        primary = None
        for line in self.rfile:
            words = line.decode().split()
            if words[0] == "APPLY":
                data[words[1]] = words[2]
                continue
            if is_primary or (words[0] == "GET" and options.reads == "local"):
                answer = self.answer(*words)
            else:
                try:
                    primary = primary or socket.create_connection(address(options.primary), timeout=1).makefile("rw")
                except OSError as error:
                    answer = f"ERR the primary cannot be reached: {error}"
                else:
                    primary.write(line.decode())
                    primary.flush()
                    answer = primary.readline().strip()
                    if not answer:
                        return  # The primary may have done it.
            self.wfile.write(f"{answer}\n".encode())

    def answer(self, command, key, *values):
        if command == "GET":
            return f"VALUE {data[key]}" if key in data else "NONE"
        if command == "SET":
            return write(key, values[0])
        return write(key, values[1], expected=values[0])


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


def recover():
    """Reads the log up to the first line that a loss of power has damaged, and cuts it off there."""
    os.makedirs(os.path.dirname(options.log), exist_ok=True)
    with open(options.log, "a+b") as file:
        file.seek(0)
        end = 0
        for line in file:
            words = line.decode(errors="replace").split()
            if len(words) != 2 or b"\0" in line or not line.endswith(b"\n"):
                break
            end += len(line)
            data[words[0]] = words[1]
            log.append(tuple(words))
        file.truncate(end)
        os.fsync(file.fileno())


if is_primary:
    recover()
    for peer in options.peers.split(","):
        threading.Thread(target=replicate, args=(peer,), daemon=True).start()
print(f"{options.name} listens", flush=True)
Server(address(options.listen), Connection).serve_forever()
