"""The messages of the wire contract, version 1: their types, and how they are encoded.

Every message is a JSON object with a ``type``. JSON is the canonical form inside the
server too: the bytes of a payload are copied on their way through. A CBOR client
(subprotocol ``lab.cbor``) gets the same objects, transcoded.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

# In the answer to a handshake: bytes of a message that the server takes.
SIZE_LIMIT_HEADER = "Message-Size-Limit"
ROOM_PATTERN = r"\A[A-Za-z0-9_.:-]{1,64}\Z"
DEPTH_LIMIT = 128
# Values in the arrays and objects of one message; an array or object counts twice.
ELEMENTS_LIMIT = 8192

ROOM_RULE = "a room's name has 1 to 64 of the characters A-Z a-z 0-9 _ . : and -"

RoomName = Annotated[str, Meta(pattern=ROOM_PATTERN)]
ShortText = Annotated[str, Meta(max_length=128)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# A number that no 64 bits hold is not short: it can be sent as a string.
Ref = ShortText | Int64 | float


class Cursor(Struct, frozen=True):
    """A place in a room's order: the newest message that a client has."""

    epoch: ShortText
    seq: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Client(Struct, frozen=True, tag_field="type", tag=str.lower):
    """A message from a client; an optional ``ref`` comes back in the answer."""


class Echo(_Client, frozen=True):
    payload: Raw
    ref: Ref | UnsetType = UNSET


class Join(_Client, frozen=True):
    room: RoomName
    after: Cursor | None = None
    presence: bool = False  # to see who is in the room, and to be seen
    from_start: bool = False  # if the cursor's epoch is gone: all of the new one
    ref: Ref | UnsetType = UNSET


class Leave(_Client, frozen=True):
    room: RoomName
    ref: Ref | UnsetType = UNSET


class Publish(_Client, frozen=True):
    room: RoomName
    payload: Raw
    key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    ref: Ref | UnsetType = UNSET


class Ping(_Client, frozen=True):
    ref: Ref | UnsetType = UNSET


class Refresh(_Client, frozen=True):
    token: Annotated[str, Meta(max_length=8192)]
    ref: Ref | UnsetType = UNSET


ClientMessage = Echo | Join | Leave | Publish | Ping | Refresh
M = TypeVar("M", Join, Publish)


class _Server(Struct, frozen=True, tag_field="type", tag=str.lower):
    """A message to a client."""


class Hello(_Server, frozen=True):
    id: str
    user: str
    stage: str
    replica: str
    heartbeat: float | None


class Joined(_Server, frozen=True):
    room: str
    epoch: str
    seq: int
    recovered: bool
    ref: Ref | UnsetType = UNSET


class Left(_Server, frozen=True):
    room: str
    ref: Ref | UnsetType = UNSET


class Ack(_Server, frozen=True):
    room: str
    seq: int
    ref: Ref | UnsetType = UNSET


class Pong(_Server, frozen=True):
    ref: Ref | UnsetType = UNSET


class Refreshed(_Server, frozen=True):
    expires: float | None
    ref: Ref | UnsetType = UNSET


class Gap(_Server, frozen=True):
    """Seqs ``first`` to ``last``, inclusive, that this client will not get."""

    room: str
    first: int = field(name="from")
    last: int = field(name="to")
    reason: str


class Person(Struct, frozen=True):
    """A connection that is seen in a room; with two of them a user is there twice."""

    id: str
    user: str


class Present(_Server, frozen=True):
    """Everybody who is in a room. Later changes come as ``presence``.

    Sent after ``joined`` to a client that asked for presence, and again to every client
    that cannot know the names otherwise. ``clients`` is missing where they are too many
    to be named.
    """

    room: str
    count: int
    clients: list[Person] | UnsetType = UNSET


class Presence(_Server, frozen=True):
    """Who came and who left since the last such message, and how many are there now.

    Sent at most once a second. ``joined`` and ``left`` are missing where the people are
    too many to be named: the names that a client has are then out of date until the
    next ``present``.
    """

    room: str
    count: int
    joined: list[Person] | UnsetType = UNSET
    left: list[Person] | UnsetType = UNSET


class Error(_Server, frozen=True):
    code: str
    detail: str
    ref: Ref | UnsetType = UNSET


class Event(Struct, frozen=True):
    """One message or one gap of a room, as JSON.

    It accounts for the seqs from ``first`` to ``last``, inclusive.
    """

    first: int
    last: int
    json: bytes


encode_json = msgspec.json.encode


def encode(message: Struct) -> bytes:
    """Return ``message`` as JSON."""
    return encode_json(message)


def body(user: str, payload: Raw) -> bytes:
    """Return the end of a ``message``'s JSON: the part that its publisher decides.

    The broker carries these bytes unchanged; :func:`event` puts room and seq before
    them.
    """
    return b'"from":%b,"payload":%b}' % (encode_json(user), bytes(payload))


def event(room: str, seq: int, tail: bytes) -> Event:
    """Return message ``seq`` of ``room``; ``tail`` is what :func:`body` made."""
    text = b'{"type":"message","room":"%b","seq":%d,' % (room.encode(), seq)
    return Event(seq, seq, text + tail)


def gap(room: str, first: int, last: int, reason: str) -> Event:
    """Return the notice that seqs ``first`` to ``last`` of ``room`` will not arrive."""
    return Event(first, last, encode(Gap(room, first, last, reason)))
