"""What an application keeps is found, wherever its attributes have it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from labserver.judge import PROBES, Broken, Skipped, World
from labserver.judge.kept import keepers
from labserver.judge.rooms import _must_be_seen
from labserver.judge.world import connection_of, peer
from labserver.server.connection import LabConnection
from labserver.server.parts import Lab
from labserver.stages.rooms import RoomsApplication

LIMIT = 128  # rooms of a connection


def world_of(made: Callable[[Lab], Any], patience: float = 1.0) -> World:
    def change(parts: Any, settings: Any) -> Any:
        return replace(parts, application=made)

    return World("rooms", patience=patience, change=change)


class Keeps(RoomsApplication):
    """Keeps a connection and a room in one way or another."""

    shared: list[Any]

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, LIMIT)
        type(self).shared = []


async def waits(connection: LabConnection) -> None:
    await asyncio.Event().wait()


WAYS: dict[str, tuple[Callable[[LabConnection, str], Any], str]] = {
    "nothing": (lambda connection, room: None, ""),
    "key": (lambda connection, room: {connection: 1, room: 1}, "a key of `kept`"),
    "value": (lambda connection, room: {1: {connection, room}}, "in `kept`"),
    "pair": (lambda connection, room: deque([(connection, room)]), "in `kept`"),
    "bytes": (lambda connection, room: [connection, room.encode()], "in `kept`"),
    "method": (lambda connection, room: [connection.reply, room], "in `kept`"),
    "closure": (lambda connection, room: lambda: (connection, room), "in `kept`"),
}


@pytest.mark.parametrize("name", WAYS)
async def test_kept_room_and_connection_are_found(name: str) -> None:
    keeps, words = WAYS[name]
    async with world_of(Keeps).inside() as server, peer(server, "ann"):
        connection = connection_of(server, "ann")
        application: Any = server.application
        application.kept = keeps(connection, "a-room")
        assert keepers(server, connection) == keepers(server, "a-room") == words


async def test_what_a_class_or_a_task_keeps_is_found() -> None:
    async with world_of(Keeps).inside() as server, peer(server, "ann"):
        application: Any = server.application
        connection = connection_of(server, "ann")
        application.shared.append(connection)
        assert keepers(server, connection) == "in `shared`"
        application.shared.clear()
        application.task = asyncio.create_task(waits(connection))
        await asyncio.sleep(0)
        assert keepers(server, connection) == "in `task`"
        application.task.cancel()


class OneIndex(RoomsApplication):
    """Cleans the connection's own index only."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, LIMIT)

    def closed(self, member: Any) -> None:
        member.rooms.clear()


@pytest.mark.loops("virtual")
async def test_connection_that_ended_and_is_still_a_member_is_told() -> None:
    seen = "said goodbye while it was in 3 rooms is still in `hub.rooms`"
    for world in (
        World("rooms", mistake="rooms-never-forgotten", patience=1.0),
        world_of(OneIndex),
    ):
        with pytest.raises(Broken, match=seen):
            await PROBES["who_ended_is_forgotten"](world)


async def test_application_that_keeps_its_rooms_elsewhere_is_not_judged() -> None:
    async with world_of(Keeps).inside() as server, peer(server, "ann"):
        with pytest.raises(Skipped, match="elsewhere than in attributes"):
            _must_be_seen(server, "no-such-room")
