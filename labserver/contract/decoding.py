"""From what a client sent to a message of the contract, or to the error that it gets.

A payload goes on to clients in any language, so what one decoder reads and another does
not is refused here, in both formats. That is I-JSON (RFC 7493 section 2): no name twice
in an object, no half of a surrogate pair, no number beyond a double. Depth and number
of elements are bounded, because they decide how long everybody's loop is held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import accumulate
from math import isinf
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from labserver.contract.messages import (
    DEPTH_LIMIT,
    ELEMENTS_LIMIT,
    ROOM_PATTERN,
    ROOM_RULE,
    ClientMessage,
    Ref,
    encode_json,
)
from labserver.errors import BadMessage

M = TypeVar("M", bound=Struct)
_decode_client: Callable[[str], ClientMessage] = msgspec.json.Decoder(
    ClientMessage
).decode
_decode_raw = msgspec.json.Decoder(Raw).decode


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
        return as_ref(msgspec.json.decode(text, type=_Anything).ref)
    except (msgspec.MsgspecError, RecursionError):
        return UNSET


def as_ref(value: Any) -> Ref | UnsetType:
    """Return a value if it can be a ``ref``, else UNSET."""
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
