"""CBOR for clients that ask for it (subprotocol ``lab.cbor``): JSON, transcoded.

What JSON cannot express is refused, and so is what takes long to read (RFC 8949).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any

import cbor2
from msgspec import UNSET

from labserver.contract.decoding import as_ref
from labserver.contract.messages import DEPTH_LIMIT, ELEMENTS_LIMIT
from labserver.contract.plain_json import from_json, to_json
from labserver.errors import BadMessage


def _refuse(*_: object) -> Any:
    raise ValueError("JSON cannot express what this tag means")


# Tags can be costly: a reference (25, 29) makes a short message unfold into a huge one,
# a pattern (35) takes half a minute to compile. Only big numbers (2, 3) and "this is
# CBOR" (55799) are read (RFC 8949 sections 3.4.3 and 3.4.6).
_TAGS: dict[int, Callable[[Any, bool], Any]]
_TAGS = dict.fromkeys({*range(512), 1004, 43000} - {2, 3}, _refuse)
# Without this the library makes a tagged map immutable, and so not a dict.
_TAGS[55799] = lambda value, immutable: value


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
        return to_json(value)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as exc:
        detail = f"not CBOR that JSON can express: {exc}"
        ref = as_ref(value.get("ref")) if isinstance(value, dict) else UNSET
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
