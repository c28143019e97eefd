"""What the wire contract asks of a server in Python, and its library does not have.

Tokens, the words of the messages and errors, and numbers: no member is served better by
them.
"""

from __future__ import annotations

import os
import re
import uuid
from collections import Counter
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt

ROOM = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
FIELDS: dict[str, set[str]] = {
    "echo": {"payload"},
    "ping": set(),
    "join": {"room"},
    "leave": {"room"},
    "publish": {"room", "payload"},
}
numbers: Counter[str] = Counter()


def user_of(headers: Mapping[str, str], path: str) -> str | None:
    """Return the user that a request's token names; None if there is no good token."""
    bearer = headers.get("Authorization", "").removeprefix("Bearer ")
    cookie = SimpleCookie(headers.get("Cookie", "")).get("lab_token")
    offered = headers.get("Sec-WebSocket-Protocol", "").replace(" ", "").split(",")
    names = [each[7:] for each in offered if each.startswith("bearer.")]
    query = parse_qs(urlsplit(path).query).get("token", [""])
    token = bearer or (cookie.value if cookie else [*names, *query][0])
    try:
        secret, exp = os.environ["LAB_SECRET"], {"require": ["exp", "sub"]}
        claims = jwt.decode(token, secret, ["HS256"], exp)
    except jwt.PyJWTError:
        return None
    return str(claims["sub"])


def hello(user: str) -> dict[str, Any]:
    about = {"id": uuid.uuid4().hex[:12], "user": user, "replica": "one"}
    return {"type": "hello", **about, "stage": "rooms", "heartbeat": None}


def refusal(said: dict[str, Any]) -> dict[str, Any] | None:
    """Return the error for an unknown type or a wrong field; None if there is none."""
    kind, room = said.get("type"), said.get("room", "lobby")
    named = isinstance(room, str) and ROOM.fullmatch(room)
    if kind in FIELDS and named and FIELDS[kind] <= said.keys():
        return None
    code = "bad_message" if kind in FIELDS else "unknown_type"
    return {"type": "error", "code": code, "ref": said.get("ref")}


def answer(said: dict[str, Any]) -> dict[str, Any] | None:
    """Return the answer to a message; None for one that nobody waits for."""
    about = {each: said[each] for each in ("room", "ref") if each in said}
    room = said.get("room", "")
    match said.get("type"):
        case "echo":
            return {"type": "echo", "payload": said.get("payload")}
        case "ping":
            return {"type": "pong", **about}
        case "join":
            numbering = {"epoch": "one", "seq": numbers[room], "recovered": False}
            return {"type": "joined", **numbering, **about}
        case "leave":
            return {"type": "left", **about}
        case "publish" if "ref" in said:
            return {"type": "ack", "seq": said["number"], **about}
    return None


def message(said: dict[str, Any], user: str) -> dict[str, Any]:
    """Return what members of a room get, with the next number."""
    numbers[said["room"]] += 1
    said["number"] = numbers[said["room"]]  # for its ack, which may come later
    about = {"room": said["room"], "seq": said["number"], "from": user}
    return {"type": "message", **about, "payload": said["payload"]}
