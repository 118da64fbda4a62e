#!/usr/bin/env python3
"""Changes the members of an etcd cluster through the JSON gateway of any node that answers.

    etcd-members.py leader NAME URL         prints who leads, as this node says
    etcd-members.py remove NAME URLS        removes the member NAME
    etcd-members.py add PEER-URL URLS       adds a member that will be reached there
    etcd-members.py promote NAME URLS       makes the member NAME the leader

URLS are those of nodes, with commas between them. It ends with status 0 if the cluster did what was asked.
"""

import json
import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 2


class Refused(Exception):
    """No node does it; why."""


def ask(url, path, **body):
    """Posts to one node."""
    request = urllib.request.Request(url + path, data=json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Refused(f"{url}{path}: {error.code} {error.read().decode(errors='replace').strip()}")
    except (OSError, ValueError) as error:
        raise Refused(f"{url}{path}: {error}")


def any_of(urls, path, **body):
    """Asks one node after the other until one answers."""
    why = Refused("no node is named")
    for url in urls:
        try:
            return ask(url, path, **body)
        except Refused as refused:
            why = refused
    raise why


def members(urls):
    """The id of each member, by name. One that has not started has no name yet."""
    listed = any_of(urls, "/v3/cluster/member/list").get("members", [])
    return {member.get("name", ""): member["ID"] for member in listed}


def id_of(name, urls):
    known = members(urls)
    if name not in known:
        raise Refused(f"{name} is no member; members are {', '.join(sorted(known))}")
    return known[name]


def promote(name, urls):
    """Only the leader hands its office over."""
    target = id_of(name, urls)
    why = Refused("nobody leads")
    for url in urls:
        try:
            status = ask(url, "/v3/maintenance/status")
            if status.get("leader") == target:
                return
            if status.get("leader") == status["header"]["member_id"]:
                ask(url, "/v3/maintenance/transfer-leadership", targetID=target)
                return
        except Refused as refused:
            why = refused
    raise why


def main(what, who, urls):
    if what == "leader":
        status = ask(urls[0], "/v3/maintenance/status")
        names = {number: name for name, number in members(urls).items()}
        leader = names.get(status.get("leader"))
        if leader is None:
            raise Refused("nobody leads")
        print(json.dumps({"leader": leader, "term": int(status["raftTerm"])}))
    elif what == "remove":
        any_of(urls, "/v3/cluster/member/remove", ID=id_of(who, urls))
    elif what == "add":
        any_of(urls, "/v3/cluster/member/add", peerURLs=[who])
    elif what == "promote":
        promote(who, urls)
    else:
        raise Refused(f"'{what}' is not known: expected leader, remove, add or promote")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3].split(","))
    except Refused as refused:
        sys.exit(f"{sys.argv[0]}: {refused}")
