"""Lua scripts of a simulated Redis, run by the Lua 5.1 in the package ``lupa``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from typing import Any

from labserver.errors import LabError
from labserver.simulated.store import Refused

Call = Callable[[bytes, Sequence[bytes]], Any]

# Redis gives each call fresh KEYS and ARGV. An error of a command ends the script.
AROUND = b"""
return function(KEYS, ARGV, redis)
local function script()
%s
end
return script()
end
"""


@cache
def _runtime() -> Any:
    """Return the Lua of this process.

    Raises:
        LabError: lupa is not installed.

    """
    try:
        from lupa.lua51 import LuaRuntime  # type: ignore[import-untyped]
    except ImportError:
        raise LabError(
            "a simulated Redis needs the package lupa: pip install '.[dev]'"
        ) from None
    return LuaRuntime(encoding=None, unpack_returned_tuples=False)


@cache
def compiled(source: bytes) -> Any:
    """Return a script as a Lua function of keys, arguments and ``redis``."""
    return _runtime().execute(AROUND % source)


def sha(source: bytes) -> bytes:
    return sha1(source, usedforsecurity=False).hexdigest().encode()


def run(source: bytes, keys: Sequence[bytes], args: Sequence[bytes], call: Call) -> Any:
    """Run a script; return its result as Redis answers with it.

    Args:
        source: The script.
        keys: ``KEYS``.
        args: ``ARGV``.
        call: What ``redis.call`` does; it may raise Refused.

    """
    lua = _runtime()
    refused: list[Refused] = []

    def redis_call(name: bytes, *values: Any) -> Any:
        try:
            return _to_lua(lua, call(name, [_text(each) for each in values]))
        except Refused as exc:
            refused.append(exc)
            raise

    redis = lua.table_from({b"call": redis_call})
    try:
        result = compiled(source)(lua.table_from(keys), lua.table_from(args), redis)
    except Exception:
        if refused:
            raise refused[0] from None
        raise
    return _from_lua(result)


def _text(value: Any) -> bytes:
    """Return an argument as Redis converts it: a number with 17 digits."""
    if isinstance(value, bytes):
        return value
    return b"%.17g" % value if isinstance(value, float) else b"%d" % value


def _to_lua(lua: Any, reply: Any) -> Any:
    if reply is None:
        return False
    if isinstance(reply, list):
        return lua.table_from([_to_lua(lua, each) for each in reply])
    if isinstance(reply, str):
        return lua.table_from({b"ok": reply.encode()})
    return reply


def _from_lua(value: Any) -> Any:
    if value is True:
        return 1
    if value is False or value is None:
        return None
    if isinstance(value, int | float):
        return int(value)
    if isinstance(value, bytes):
        return value
    if (status := value[b"ok"]) is not None:
        return status.decode()
    found: list[Any] = []
    while (each := value[len(found) + 1]) is not None:
        found.append(_from_lua(each))
    return found
