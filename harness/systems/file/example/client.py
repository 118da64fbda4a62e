"""A client for the harness: reads requests and writes answers, one JSON object a line.

The three functions below are all that has to change for another system: `connect`, `invoke`, and perhaps `setup`. The
rule that matters most: answer `fail` only if the operation certainly had no effect. If it may have had one, or nobody
knows, let the exception through: the answer is then `info`.
"""
import json, socket, sys

OPS = ["read", "write", "cas"]


class Fail(Exception):
    """The operation certainly had no effect. The class `unavailable` has the connection opened anew."""

    def __init__(self, error, text=""):
        self.error, self.text = error, text


def setup(node):
    """Prepares the system, once, before any connection is opened."""


def connect(node):
    """Opens a connection to a node: {"name": ..., "ip": ..., "ports": {...}}."""
    return socket.create_connection((node["ip"], node["ports"]["client"]), timeout=2).makefile("rw")


def invoke(connection, f, key, value):
    """Performs an operation and returns its value."""
    if f == "read":
        answer = ask(connection, f"GET {key}")
        return None if answer == "NONE" else int(answer.split()[1])
    if f == "write":
        ask(connection, f"SET {key} {value}")
        return None
    old, new = value
    if ask(connection, f"CAS {key} {'-' if old is None else old} {new}") == "MISMATCH":
        raise Fail("mismatch")
    return None


def ask(connection, line):
    connection.write(line + "\n")
    connection.flush()
    answer = connection.readline().strip()
    if not answer:
        raise ConnectionError("the connection was closed")
    if answer.startswith("ERR"):
        raise Fail("unavailable", answer)
    return answer


def main():
    hello = json.loads(sys.stdin.readline())
    print(json.dumps({"hello": hello["hello"], "ops": OPS}), flush=True)
    connection = None
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"id": request["id"], "type": "ok"}
        try:
            if request["do"] == "setup":
                setup(request["node"])
            elif request["do"] == "open":
                connection = connect(request["node"])
            elif request["do"] == "invoke":
                answer["value"] = invoke(connection, request["f"], request["key"], request["value"])
        except Fail as fail:
            answer.update(type="fail", error=fail.error, text=fail.text)
        except Exception as error:
            answer.update(type="info", error=type(error).__name__, text=str(error))
        print(json.dumps(answer), flush=True)


main()
