"""Chapter 0: the messages that join a room and publish to it."""

from __future__ import annotations

import json
from typing import Any

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake


def _join(room: str) -> dict[str, Any]:
    return {"type": "join", "room": room}


def _publish(room: str, text: Any) -> dict[str, Any]:
    return {"type": "publish", "room": room, "payload": text}


def publish_first(room: str, text: Any) -> list[str]:
    return [json.dumps(_publish(room, text)), json.dumps(_join(room))]


def without_join(room: str, text: Any) -> list[str]:
    return [json.dumps(_publish(room, text))]


def as_python(room: str, text: Any) -> list[str]:
    return [str(_join(room)), str(_publish(room, text))]


def as_objects(room: str, text: Any) -> list[dict[str, Any]]:
    return [_join(room), _publish(room, text)]


def as_bytes(room: str, text: Any) -> list[bytes]:
    return [json.dumps(each).encode() for each in (_join(room), _publish(room, text))]


def twice_encoded(room: str, text: Any) -> list[str]:
    return [json.dumps(_join(room)), json.dumps(_publish(room, json.dumps(text)))]


def _meant(result: Any, given: tuple[Any, ...]) -> Any:
    """Return the messages as a server reads them; spacing in the JSON is ignored."""
    if not isinstance(result, list | tuple):
        return result
    meant = []
    for each in result:
        try:
            if isinstance(each, bytes):  # json.loads would take them
                raise TypeError
            meant.append(json.dumps(json.loads(each), sort_keys=True))
        except (TypeError, ValueError):
            meant.append(f"no JSON text: {each!r}")
    return type(result)(meant)


def _case(room: str, text: Any) -> Case:
    right = [json.dumps(_join(room)), json.dumps(_publish(room, text))]
    return Case((room, text), _meant(right, ()))


EXERCISE = Exercise(
    name="first_words",
    cases=(_case("lobby", "hello"), _case("team:red", 'say "hi"'), _case("a", [1, 2])),
    mistakes=(
        Mistake(
            publish_first,
            "a client that publishes before it joins does not get its own message: the "
            "join comes first.",
        ),
        Mistake(
            without_join,
            "a client may publish without joining, but hears nothing: join first.",
        ),
        Mistake(
            as_python,
            "`str()` makes Python text, with single quotes; the server reads JSON.",
        ),
        Mistake(as_objects, "a frame carries text: use `json.dumps` for each of them."),
        Mistake(
            as_bytes,
            "these are bytes, which would be sent as a binary frame. `json.dumps` "
            "returns text: leave it as it is.",
        ),
        Mistake(
            twice_encoded,
            "the payload is encoded twice: the readers get a string with JSON in it.",
        ),
    ),
    look_at="`labserver/contract/messages.py`: every message that a client may send.",
    praise="A client need not know more to talk in a room.",
    outcome=_meant,
)
