"""What a server's application keeps: all that its attributes lead to.

An application has indexes of its own, so no check knows their names. But the
interpreter's collector knows what each object refers to, as it must.
"""

from __future__ import annotations

import gc
from asyncio import AbstractEventLoop
from collections.abc import Iterator, Mapping
from contextvars import Context
from types import CodeType, FunctionType, ModuleType
from typing import Any

from labserver.server.connection import LabConnection
from labserver.server.server import LabServer

# What leads to the whole program, or to the judge itself.
APART = (type, ModuleType, CodeType, Context, AbstractEventLoop)


def keepers(server: LabServer, wanted: LabConnection | str) -> str:
    """Return which attributes of a server's application keep something, as words.

    The hub's rooms, and those of each connection, are its attributes, too.

    Args:
        server: The server.
        wanted: A connection, or the name of a room.

    Returns:
        Such as ``in `rooms` and a key of `members```; empty if nothing keeps it.

    """
    found, given = [], _given(server)
    for name, value in _attributes(server).items():
        if id(value) in given:
            continue
        if isinstance(value, Mapping) and wanted in value:
            found.append(f"a key of `{name}`")
        elif any(_is(each, wanted) for each in _reached(value, given)):
            found.append(f"in `{name}`")
    return " and ".join(found)


def _attributes(server: LabServer) -> dict[str, Any]:
    """Return an application's attributes by name, also those of its class."""
    application = server.application
    kinds = [each for each in type(application).__mro__ if each is not object]
    found = {
        name: value
        for each in (*reversed(kinds), application)
        for name, value in getattr(each, "__dict__", {}).items()
        if not name.startswith("__")
    }
    rooms = [each.rooms for each in server.connections]
    return {**found, "hub.rooms": server.hub.rooms, "connection.rooms": rooms}


def _given(server: LabServer) -> set[int]:
    """Return the ids of what an application was given, and does not keep itself."""
    parts = server.parts
    given = (parts.broker, parts.history, parts.admission)
    return set(map(id, (server, server.hub, server.metrics, server.attendance, *given)))


def _reached(value: Any, given: set[int]) -> Iterator[Any]:
    """Yield all objects that a value leads to; a connection leads to nothing."""
    seen, waiting = set(given), [value]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, APART):
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, FunctionType):  # its module's names are not its own
            waiting += [each.__closure__, each.__defaults__]
        elif not isinstance(each, LabConnection):
            waiting += gc.get_referents(each)


def _is(each: Any, wanted: LabConnection | str) -> bool:
    """Return whether an object is a connection, or a text that names a room."""
    if isinstance(wanted, LabConnection):
        return each is wanted
    if isinstance(each, bytes):
        return wanted.encode() in each
    return isinstance(each, str) and wanted in each
