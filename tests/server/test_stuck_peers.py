"""Twenty members that never read among fifty healthy ones, on one server process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from labserver.client import Client
from labserver.judge.oracle import Oracle, lost
from labserver.processes.cluster import Replica, running_replica
from tests.conftest import eventually
from tests.support.raw_sockets import bearer, said, upgrade

STUCK, HEALTHY, MESSAGES = 20, 50, 250
LIMIT, SEND_BUFFER = 262_144, 65_536
SETTINGS = (
    "--without", "broker",
    "--outbox-limit", str(LIMIT),
    "--send-buffer", str(SEND_BUFFER),
)  # fmt: skip


async def stuck_member(replica: Replica) -> asyncio.StreamWriter:
    """Connect, join, and never read again."""
    port = int(replica.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(upgrade("/", bearer(replica.token("sloth"))))
    writer.write(said(type="join", room="lobby"))
    await reader.readuntil(b'"joined"')
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


async def listen(client: Client, oracle: Oracle, last: int) -> None:
    async for message in client:
        oracle.saw(message)
        if message.get("seq") == last and message["type"] == "message":
            return


@pytest.mark.timeout(60)
async def test_stuck_readers_cost_the_healthy_nothing_and_memory_stays_bounded(
    loop_of_process: dict[str, str],
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running_replica(
                "resume",
                *SETTINGS,
                "--stuck-timeout",
                "1.5",
                environment=loop_of_process,
            )
        )
        sloths = [await stuck_member(server) for _ in range(STUCK)]
        oracles = [Oracle() for _ in range(HEALTHY)]
        clients = [
            await stack.enter_async_context(Client(server.url, server.token(f"u{n}")))
            for n in range(HEALTHY)
        ]
        for client, oracle in zip(clients, oracles, strict=True):
            oracle.saw(await client.join("lobby"))
        listening = asyncio.gather(
            *(
                listen(client, oracle, MESSAGES)
                for client, oracle in zip(clients, oracles, strict=True)
            )
        )
        before = await server.metric("process_resident_memory_bytes")
        seqs, held, grown = [], 0.0, 0.0
        for number in range(MESSAGES):
            seqs.append((await clients[0].publish("lobby", "x" * 8000))["seq"])
            if number % 25 == 24:
                held = max(held, await server.metric("labserver_outbox_bytes"))
                memory = await server.metric("process_resident_memory_bytes")
                grown = max(grown, memory - before)
        await listening
        for oracle in oracles:
            assert oracle.verdict.clean
            assert not lost(oracle, "lobby", seqs)
        assert 0 < held <= STUCK * LIMIT
        # Members share the messages that wait; the kernel's buffers do not count here.
        assert grown <= STUCK * (LIMIT + SEND_BUFFER)

        async def only_the_healthy() -> bool:
            return await server.metric("labserver_connections") == HEALTHY

        await eventually(only_the_healthy, within=15)
        assert await server.metric("labserver_peers_dead_total") == 0
        for sloth in sloths:
            sloth.transport.abort()


@pytest.mark.timeout(60)
async def test_sigterm_ends_in_time_with_stuck_readers(
    loop_of_process: dict[str, str],
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running_replica(
                "resume",
                *SETTINGS,
                "--drain-timeout",
                "1",
                environment=loop_of_process,
            )
        )
        sloths = [await stuck_member(server) for _ in range(STUCK)]
        ann = await stack.enter_async_context(Client(server.url, server.token()))
        for _ in range(40):
            await ann.publish("lobby", "x" * 8000)
        assert await server.metric("labserver_outbox_bytes") > 0
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await server.stop() == 0
        assert loop.time() - started < 10  # it would be killed after 15
        for sloth in sloths:
            sloth.transport.abort()
