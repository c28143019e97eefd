"""The messages of the wire contract, version 1: their types, decoding and encoding.

Every message is a JSON object with a ``type``. JSON is the canonical form inside the
server too: the bytes of a payload are copied on its way through. A CBOR client
(subprotocol ``lab.cbor``) gets the same objects, transcoded.

A payload goes on to clients in any language, so what one decoder reads and another does
not is refused here, in both formats. That is I-JSON (RFC 7493 section 2): no name twice
in an object, no half of a surrogate pair, no number beyond a double. Depth and number
of elements are bounded, because they decide how long everybody's loop is held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from itertools import accumulate
from math import isinf
from typing import Annotated, Any, TypeVar

import cbor2
import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from labserver.errors import BadMessage

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


_decode_client: Callable[[str], ClientMessage] = msgspec.json.Decoder(
    ClientMessage
).decode
_decode_raw = msgspec.json.Decoder(Raw).decode
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


def well_formed(text: str) -> Raw:
    """Return ``text``, which is checked to be well-formed JSON.

    Other decoders may read it differently, so it may only go back to its sender.

    Raises:
        BadMessage: ``bad_json``, with what is wrong and where.

    """
    try:
        _check_shape(text)
        return _decode_raw(text)
    except (ValueError, RecursionError) as exc:
        raise _bad_json(text, exc) from None


def payload(text: str) -> Raw:
    """Return ``text`` as the payload of a message, JSON which all decoders read alike.

    Raises:
        BadMessage: ``bad_json``, with what is wrong and where.

    """
    try:
        _check_shape(text, DEPTH_LIMIT - 1)  # the message around it is a level, too
        raw = _decode_raw(text)
        _check_meaning(text)
        return raw
    except (ValueError, RecursionError) as exc:
        raise _bad_json(text, exc) from None


def checked(kind: type[M], **fields: Any) -> M:
    """Return a client's message of these fields, checked as :func:`decode` checks them.

    Args:
        kind: Its type, such as :class:`Join`.
        fields: By name; a payload comes from :func:`payload`.

    Raises:
        BadMessage: ``bad_message``, with the field that is wrong.

    """
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as exc:
        raise _bad_field(f"{exc}") from None


def decode(text: str) -> ClientMessage:
    """Return the message that a client sent as JSON, if all decoders read it alike.

    Raises:
        BadMessage: ``bad_json``, ``unknown_type`` or ``bad_message``.

    """
    try:
        _check_shape(text)
        message = _decode_client(text)
        _check_meaning(text)
        return message
    except msgspec.ValidationError as exc:
        well_formed(text)  # the wrong type may be found before the text breaks off
        raise _invalid(text, str(exc)) from None
    except (ValueError, RecursionError) as exc:
        raise _bad_json(text, exc) from None


# A string without an end is matched to the end of the text: a search for its end from
# each quote in it would take quadratic time.
_STRING = r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_STRUCTURE = re.compile(_STRING + r'|[^\[\]{},"]++', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1, ",": 0}


def _check_shape(text: str, depth_limit: int = DEPTH_LIMIT) -> None:
    """Raise ValueError for more elements or levels than the limits allow."""
    # Nearly every message has fewer than the lower limit: counts only, no scan.
    if len(text) <= depth_limit:
        return
    opened = text.count("[") + text.count("{")
    if opened <= depth_limit and opened + text.count(",") <= ELEMENTS_LIMIT:
        return
    structure = _STRUCTURE.sub("", text)
    closed = structure.count("]") + structure.count("}")
    if len(structure) - closed > ELEMENTS_LIMIT:
        raise ValueError(f"more than {ELEMENTS_LIMIT} elements")
    if max(accumulate(map(_STEPS.__getitem__, structure)), default=0) > depth_limit:
        raise RecursionError


def _check_meaning(text: str) -> None:
    """Raise ValueError where another decoder would read well-formed JSON otherwise."""
    try:
        # Text that is encoded again to the same bytes is free of doubt: most clients
        # write so. Huge integers are the exception, and MessagePack refuses them.
        value = _decode_any(text)
        msgspec.msgpack.encode(value)
        if encode_json(value) == text.encode():
            return
    except (msgspec.MsgspecError, OverflowError):
        pass  # the slower decoder says what is wrong
    _decode_strictly(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _number(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise ValueError("a number is beyond what a double holds")
    return value


_decode_any = msgspec.json.Decoder().decode
_decode_strictly = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_number, parse_float=_number
).decode


def _bad_json(text: str, exc: Exception) -> BadMessage:
    detail = f"{exc}"
    if isinstance(exc, RecursionError):
        detail = f"JSON nests deeper than {DEPTH_LIMIT} levels"
    # A client that sent a ref waits for an answer with that ref.
    return BadMessage("bad_json", detail, ref_of(text))


class _Anything(Struct):
    type: Any = None
    ref: Any = None


def ref_of(text: str) -> Ref | UnsetType:
    """Return the ``ref`` of a message that cannot be served; UNSET if it has none."""
    try:
        return _as_ref(msgspec.json.decode(text, type=_Anything).ref)
    except (msgspec.MsgspecError, RecursionError):
        return UNSET


def _as_ref(value: Any) -> Ref | UnsetType:
    try:
        ref: Ref = msgspec.convert(value, Ref)
        return ref
    except msgspec.MsgspecError:
        return UNSET


_TYPES = {"echo", "join", "leave", "publish", "ping", "refresh"}


def _invalid(text: str, detail: str) -> BadMessage:
    ref = ref_of(text)
    try:
        kind = msgspec.json.decode(text, type=_Anything).type
    except (msgspec.MsgspecError, RecursionError):
        kind = None
    if isinstance(kind, str) and kind not in _TYPES:
        known = ", ".join(sorted(_TYPES))
        return BadMessage("unknown_type", f"type must be one of {known}", ref)
    return _bad_field(detail, ref)


def _bad_field(detail: str, ref: Ref | UnsetType = UNSET) -> BadMessage:
    if repr(ROOM_PATTERN) in detail:
        detail = ROOM_RULE
    return BadMessage("bad_message", detail[:200], ref)  # it may quote the message


def _refuse(*_: object) -> Any:
    raise ValueError("JSON cannot express what this tag means")


# Tags can be costly: a reference (25, 29) makes a short message unfold into a huge one,
# a pattern (35) takes half a minute to compile. Only big numbers (2, 3) and "this is
# CBOR" (55799) are read (RFC 8949 sections 3.4.3 and 3.4.6).
_TAGS: dict[int, Callable[[Any, bool], Any]]
_TAGS = dict.fromkeys({*range(512), 1004, 43000} - {2, 3}, _refuse)
# Without this the library makes a tagged map immutable, and so not a dict.
_TAGS[55799] = lambda value, immutable: value
_as_json = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode


def from_cbor(data: bytes) -> str:
    """Return a client's CBOR as JSON.

    Raises:
        BadMessage: ``bad_json``: it is not CBOR, or JSON cannot express it.

    """
    value = None
    try:
        _check_items(data)
        stream = BytesIO(data)
        value = cbor2.load(
            stream,
            max_depth=DEPTH_LIMIT,
            semantic_decoders=_TAGS,
            allow_duplicate_keys=False,
            strict_hashable_types=True,  # numbers as keys can be made to collide
        )
        if stream.tell() < len(data):
            raise ValueError("more follows the value")
        return _as_json(value)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as exc:
        detail = f"not CBOR that JSON can express: {exc}"
        ref = _as_ref(value.get("ref")) if isinstance(value, dict) else UNSET
        raise BadMessage("bad_json", detail[:200], ref) from None


def _check_items(data: bytes) -> None:
    """Raise ValueError for CBOR with more items than ``ELEMENTS_LIMIT`` allows.

    A decoder builds an object for each byte of a hostile message. This walks over the
    heads of the items instead (RFC 8949 section 3). It stops at twice the limit, since
    a name and its value are two items and count as one element.
    """
    if len(data) <= 2 * ELEMENTS_LIMIT:
        return
    at = items = 0
    while at < len(data):
        items += 1
        if items > 2 * ELEMENTS_LIMIT:
            raise ValueError(f"more than {ELEMENTS_LIMIT} elements")
        kind, value = divmod(data[at], 32)
        at += 1
        if 24 <= value < 28:
            size = 1 << (value - 24)
            value = int.from_bytes(data[at : at + size])
            at += size
        if kind in (2, 3) and value != 31:  # bytes or text, not in pieces
            at += value


@lru_cache(32)  # the variants of a room ask for the same, one after the other
def to_cbor(text: bytes) -> bytes:
    """Return JSON as CBOR. Numbers that no CBOR float holds become infinite."""
    return cbor2.dumps(from_json(text))


def to_json(value: Any) -> str:
    """Return a value as JSON, in UTF-8 and without escapes.

    With escapes, text in most of the world's scripts is twice as long, so a server
    might refuse for its size what it would have accepted.

    Raises:
        ValueError, TypeError: JSON cannot express the value.

    """
    return _as_json(value)


def from_json(text: str | bytes) -> Any:
    """Return the Python value of JSON; an integer that is too large becomes infinite.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It nests too deeply.

    """
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | float:
    # Python refuses to read more than 4300 digits (CVE-2020-10735).
    return int(digits) if len(digits) < 4300 else float(digits)
