"""Somebody goes away, something is said, and he comes back with a cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labserver.notebook.peers import Message, connected
from labserver.notebook.progress import progress
from labserver.notebook.servers import running
from labserver.processes.cluster import Replica


async def absence(
    server: Replica, messages: int, room: str = "lobby"
) -> tuple[Message, list[int]]:
    """Say something while Bob is away.

    Args:
        server: The server.
        messages: How many messages are said meanwhile.
        room: In which room.

    Returns:
        The ``joined`` that welcomes him back, and the seqs of what is replayed.

    """
    async with connected(server, "ann", room) as ann:
        async with connected(server, "bob") as bob:
            epoch = (await bob.join(room))["epoch"]
            await ann.publish(room, "before")
            await bob.messages(1)
            cursor = {"epoch": epoch, "seq": bob.of("message")[-1]["seq"]}
        await ann.publish(room, *range(messages))
        await ann.messages(messages + 1)
        async with connected(server, "bob") as bob:
            joined = await bob.join(room, after=cursor)
            await bob.ask(type="ping")  # what was sent to him came before the pong
            return joined, [message["seq"] for message in bob.of("message")]


async def losses(stage: str, away: Sequence[int], **options: Any) -> list[int]:
    """Return how many messages an absence costs, for each number of messages said.

    Args:
        stage: Last stage of the server.
        away: How many messages are said during each absence.
        options: As for :func:`running`.

    """
    lost = []
    async with running(stage, **options) as server:
        for count in progress(away, f"absences at stage {stage}"):
            _, seen = await absence(server, count, f"room-{count}")
            lost.append(count - len(seen))
    return lost
