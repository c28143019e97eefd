"""JSON as clients of the lab write and read it, whatever its values are."""

from __future__ import annotations

import json
from typing import Any

_as_json = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode


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
    return _from_json(text if isinstance(text, str) else text.decode())


def _integer(digits: str) -> int | float:
    # Python refuses to read more than 4300 digits (CVE-2020-10735).
    return int(digits) if len(digits) < 4300 else float(digits)


# json.loads would make a decoder for each text.
_from_json = json.JSONDecoder(parse_int=_integer).decode
