"""The client of lock-server.py: see client.py, which explains what a client is."""
import json, socket, sys


class Fail(Exception):
    """The operation certainly had no effect."""


def connect(node):
    return socket.create_connection((node["ip"], node["ports"]["client"]), timeout=2).makefile("rw")


def ask(connection, line):
    connection.write(line + "\n")
    connection.flush()
    answer = connection.readline().split()
    if not answer:
        raise ConnectionError("the connection was closed")
    return answer


def invoke(connection, tokens, f, name):
    """Takes a lock, and returns its token, or gives it back."""
    if f == "lock":
        answer = ask(connection, f"LOCK {name}")
        if answer == ["HELD"]:
            raise Fail("held")
        tokens[name] = int(answer[1])
        return tokens[name]
    if name not in tokens:
        raise Fail("not-held")
    if ask(connection, f"UNLOCK {name} {tokens.pop(name)}") == ["LOST"]:
        raise Fail("lost")
    return None


def main():
    hello = json.loads(sys.stdin.readline())
    print(json.dumps({"hello": hello["hello"], "ops": ["lock", "unlock"]}), flush=True)
    connection, tokens = None, {}
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"id": request["id"], "type": "ok"}
        try:
            if request["do"] == "open":
                connection = connect(request["node"])
            elif request["do"] == "invoke":
                token = invoke(connection, tokens, request["f"], request["key"])
                if token is not None:
                    answer["version"] = token
        except Fail as fail:
            answer.update(type="fail", error=str(fail))
        except Exception as error:
            answer.update(type="info", error=type(error).__name__, text=str(error))
        print(json.dumps(answer), flush=True)


main()
