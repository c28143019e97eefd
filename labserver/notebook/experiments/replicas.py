"""Several replicas on one Redis: the order that clients see, and bytes from Redis."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import Redis

from labserver.notebook.peers import DEADLINE, Peer, connected
from labserver.notebook.progress import progress
from labserver.notebook.servers import running_cluster
from labserver.redis.link import channel_of

BYTES = "total_net_output_bytes"


async def duet(mistake: str = "", messages: int = 10) -> tuple[list[str], list[str]]:
    """Let Ann and Bob publish at the same moments, on two replicas.

    Args:
        mistake: A well-known mistake of stage broker.
        messages: How many messages each of them publishes.

    Returns:
        The messages on Ann's screen, and those on Bob's.

    """
    async with running_cluster(2, "broker", mistake=mistake) as cluster:
        first, second = cluster.replicas
        async with (
            connected(first, "ann", "lobby") as ann,
            connected(second, "bob", "lobby") as bob,
        ):
            for number in range(messages):
                await asyncio.gather(
                    ann.publish("lobby", f"a{number}"),
                    bob.publish("lobby", f"b{number}"),
                )
                await asyncio.sleep(0.01)
            await ann.messages(2 * messages)
            await bob.messages(2 * messages)
            return ann.payloads, bob.payloads


async def said(peer: Peer, room: str) -> int:
    """Publish a message, wait until the peer has it or a gap for it; return its seq.

    Publishing is repeated while the broker is down. When a laptop sleeps, its link to
    Redis is lost together with the messages on it; the room then gets a ``gap``.

    Raises:
        RuntimeError: The message is refused, or the broker stays down for five seconds.
        TimeoutError: Neither the message nor a gap arrives.

    """
    end = time.monotonic() + DEADLINE
    while True:
        answer = await peer.ask(type="publish", room=room, payload="x" * 200)
        if answer.get("code") != "broker_down" or time.monotonic() > end:
            break
        await asyncio.sleep(0.1)
    if answer["type"] != "ack":
        raise RuntimeError(f"{room} took no message: {answer['detail']}")

    seq: int = answer["seq"]
    if not await peer.until(
        lambda: any(
            each["seq" if each["type"] == "message" else "to"] >= seq
            for each in peer.of("message") + peer.of("gap")
        )
    ):
        raise TimeoutError(f"{room} did not deliver message {seq}: run the cell again")
    return seq


@dataclass
class Carried:
    """Costs of carrying a message between replicas, on average.

    Attributes:
        sent: Bytes that Redis sent to all replicas, with its answers to commands.
        told: Replicas that receive the message.

    """

    sent: float
    told: float


async def carried(
    replicas: int = 3, mistake: str = "", rooms: int = 4, messages: int = 40
) -> Carried:
    """Publish in rooms whose members are all on one replica, and measure.

    Args:
        replicas: How many replicas.
        mistake: A well-known mistake of stage broker.
        rooms: Rooms on each replica, with one member each.
        messages: Messages in each room.

    """
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            running_cluster(replicas, "broker", mistake=mistake)
        )
        redis = await stack.enter_async_context(Redis.from_url(cluster.redis))
        peers = {
            f"room-{index}-{number}": await stack.enter_async_context(
                connected(replica, f"user-{number}", f"room-{index}-{number}")
            )
            for index, replica in enumerate(cluster.replicas)
            for number in range(rooms)
        }

        sent = (await redis.info("stats"))[BYTES]
        words = f"{replicas} replicas" + (f", {mistake}" if mistake else "")
        for _ in progress(range(messages), words):
            await asyncio.gather(*(said(peer, room) for room, peer in peers.items()))
        sent = (await redis.info("stats"))[BYTES] - sent
        # These have no messages for clients; Redis returns how many replicas subscribe.
        told = [await redis.publish(channel_of(room), b"e 1 ") for room in peers]
        return Carried(sent / messages / len(peers), sum(told) / len(told))
