"""A client goes away, messages are published, and it comes back with a cursor."""

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
    """Publish messages while Bob is away.

    Args:
        server: The server.
        messages: How many messages are published meanwhile.
        room: The room.

    Returns:
        The ``joined`` that Bob gets when he comes back, and the seqs of the replayed
        messages.

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
            await bob.ask(type="ping")  # earlier messages arrive before the pong
            return joined, [message["seq"] for message in bob.of("message")]


async def losses(stage: str, away: Sequence[int], **options: Any) -> list[int]:
    """Return how many messages are lost by absences of several lengths.

    Args:
        stage: Last stage of the server.
        away: Of each absence, how many messages are published meanwhile.
        options: As for :func:`running`.

    """
    lost = []
    async with running(stage, **options) as server:
        for count in progress(away, f"absences at stage {stage}"):
            _, seen = await absence(server, count, f"room-{count}")
            lost.append(count - len(seen))
    return lost
