"""Chapter 11: name the error of a message that cannot be served."""

from __future__ import annotations

import re
from typing import Any

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

Message = dict[str, Any]
TYPES = ("echo", "join", "leave", "publish", "ping")
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def _error_for(message: Message, known: Any) -> str | None:
    if message.get("type") not in TYPES:
        return "unknown_type"
    room = message.get("room", "lobby" if message["type"] in ("echo", "ping") else None)
    named = isinstance(room, str) and bool(known(NAME, room))
    whole = message["type"] not in ("echo", "publish") or "payload" in message
    return None if named and whole else "bad_message"


def by_match(message: Message) -> str | None:
    return _error_for(message, re.match)


def one_code(message: Message) -> str | None:
    return "bad_message" if _error_for(message, re.fullmatch) else None


def falsy_payload(message: Message) -> str | None:
    if "payload" in message and not message["payload"]:
        message = {key: value for key, value in message.items() if key != "payload"}
    return _error_for(message, re.fullmatch)


def room_for_all(message: Message) -> str | None:
    if message.get("type") in ("echo", "ping") and "room" not in message:
        return "bad_message"
    return _error_for(message, re.fullmatch)


def any_room(message: Message) -> str | None:
    if "room" in message:
        message = {**message, "room": "lobby"}
    return _error_for(message, re.fullmatch)


def no_payload_needed(message: Message) -> str | None:
    return _error_for({"payload": None, **message}, re.fullmatch)


EXERCISE = Exercise(
    name="error_for",
    cases=(
        Case(({"type": "join", "room": "lobby"},), None),
        Case(({"type": "ping"},), None),
        Case(({"type": "shout", "room": "lobby"},), "unknown_type"),
        Case(({"room": "lobby"},), "unknown_type"),
        Case(({"type": "join"},), "bad_message"),
        Case(({"type": "join", "room": 3},), "bad_message"),
        Case(({"type": "leave", "room": "no such name"},), "bad_message"),
        Case(({"type": "publish", "room": "lobby"},), "bad_message"),
        Case(({"type": "publish", "room": "lobby", "payload": None},), None),
        Case(({"type": "echo", "payload": 0},), None),
    ),
    mistakes=(
        Mistake(
            one_code,
            "a client that is newer than the server needs to know which of the two it "
            "is: a type that this server does not know is `unknown_type`.",
        ),
        Mistake(
            by_match,
            "`match` looks at the beginning only, so `no such name` passes: a name has "
            "to match from its first character to its last, as with `fullmatch`.",
        ),
        Mistake(
            falsy_payload,
            "`null`, `0` and `false` are payloads, too. Ask with `in` whether "
            "the field is there.",
        ),
        Mistake(room_for_all, "`echo` and `ping` are about no room."),
        Mistake(
            any_room,
            "a room is a string that matches the pattern. A client sends anything, "
            "also a number, and it would become the key of a dictionary.",
        ),
        Mistake(
            no_payload_needed, "`publish` and `echo` have nothing to say without one."
        ),
    ),
    look_at="`answer` in `notebooks/reference/own_server.py`.",
    praise="What a client sends is judged before anything is done with it.",
)
