"""Turns: an expensive connection does not make the others wait long."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import cbor2
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from labserver.contract.tokens import issue
from labserver.processes.cluster import Replica, running_replica
from labserver.server.intake import QUEUE
from labserver.server.limits import TokenBucket
from labserver.server.reading import DROPPED_LIMIT
from labserver.server.server import LabServer
from labserver.server.turns import QUANTUM, SHARE, TICKS, Share, Turns, timed
from tests.conftest import SECRET, Peer, Running, eventually, peer
from tests.support import attackers

ACCEPTED = "labserver_handshakes_accepted_total"
FLOODS = ["bombs", "pings", "crumbs", "messages"]  # beyond the limits
DEAR = ["maps", "most maps", "arrays", "most arrays", "rows", "spaces", "big"]  # within


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def quiet() -> AsyncIterator[Replica]:
    """A server that nobody attacks."""
    async with running_replica("resume", "--without", "broker") as server:
        yield server


async def answered(client: Peer) -> float:
    """Return the seconds until a ping is answered."""
    began = time.monotonic()
    await client.ask(type="ping")
    return time.monotonic() - began


async def cost(server: Replica, kind: str) -> float:
    """Return the seconds in which a server that is not attacked serves one message."""
    make, headers = attackers.KINDS[kind]
    token = server.token("mallory")
    sock = await asyncio.to_thread(attackers.connected, server.url, token, headers)
    ping = {"type": "ping", "ref": "and done"}
    if headers == attackers.CBOR:
        then = attackers.frame(attackers.BINARY, cbor2.dumps(ping))
    else:
        then = attackers.frame(attackers.TEXT, json.dumps(ping).encode())
    message, loop, taken = make(), asyncio.get_running_loop(), []
    with sock:
        for _ in range(5):
            began = time.monotonic()
            await loop.sock_sendall(sock, message + then)
            while b"and done" not in await loop.sock_recv(sock, 2**20):
                pass
            taken.append(time.monotonic() - began)
    return min(taken)


def scheduled(server: Replica) -> tuple[int, int]:
    """Return the nanoseconds that a server ran, and waited for a processor."""
    schedstat = Path(f"/proc/{server.process.pid}/schedstat")
    if not schedstat.exists():
        return 0, 0
    ran, waited, _ = map(int, schedstat.read_text().split())
    return ran, waited


def late(taken: list[float]) -> float:
    return sorted(taken)[len(taken) * 95 // 100]


@pytest.mark.alone
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", FLOODS + DEAR)
async def test_others_are_answered_beside_expensive_clients(
    kind: str, quiet: Replica
) -> None:
    count = 8 if kind in FLOODS else 20
    async with (
        running_replica("resume", "--without", "broker") as server,
        peer(server.url, token=server.token("ann")) as ann,
        peer(quiet.url, token=quiet.token("bob")) as bob,
    ):
        one = await cost(quiet, kind)
        before = await server.metric("process_resident_memory_bytes")
        async with attackers.attacked(server, kind, count):
            async with asyncio.timeout(10):
                while await server.metric(ACCEPTED) < count:
                    pass
            ran, waited = scheduled(server)
            beside, alone, end = list[float](), list[float](), time.monotonic() + 1.5
            while time.monotonic() < end:
                beside.append(await answered(ann))
                alone.append(await answered(bob))
                await asyncio.sleep(0.01)
            now_ran, now_waited = scheduled(server)
        # The other server shows what this machine adds, and the kernel how much slower
        # this one was for want of a processor. Beside that, a ping waits for a few
        # turns; without turns, for a message of each connection or for seconds.
        slower = 1 + (now_waited - waited) / max(1, now_ran - ran)
        assert late(beside) < late(alone) + slower * 10 * (one + QUANTUM)
        grown = await server.metric("process_resident_memory_bytes") - before
        assert grown < 160 * 2**20  # a room's history may hold 64 MB of this


def attacker(server: LabServer, kind: str) -> tuple[attackers.socket.socket, bytes]:
    """Return a connected socket, and the bytes to send on it."""
    make, headers = attackers.KINDS[kind]
    sock = attackers.connected(server.url, issue(SECRET, "mallory"), headers)
    return sock, make()


async def test_connection_holds_no_more_than_its_queue_inflated(
    running: Running,
) -> None:
    async with running("rooms", message_rate_limit=0) as server:
        served = asyncio.Event()
        server.application.receive = lambda *_: served.wait()  # type: ignore[assignment]
        sock, bomb = await asyncio.to_thread(attacker, server, "bombs")
        with sock:
            await eventually(lambda: len(server.connections) == 1)
            (connection,) = server.connections
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_sendall(sock, bomb * 5000), 10)
            await eventually(lambda: connection.unread)
            frames = connection.recv_messages.frames.queue
            assert sum(len(frame.data) for frame in frames) < 20 * 65_536
            assert len(connection.gate.buffer) <= 2**18 + len(bomb)
            served.set()
            await eventually(lambda: server.metrics.received == 5000)


@pytest.mark.parametrize("kind", ["pings", "messages"])
async def test_client_that_ignores_its_close_is_cut_off(
    kind: str, running: Running
) -> None:
    async with running("rooms", message_rate_limit=10) as server:
        sock, frame = await asyncio.to_thread(attacker, server, kind)
        with sock:
            await eventually(lambda: len(server.connections) == 1)
            (connection,) = server.connections
            sending = asyncio.get_running_loop().sock_sendall(sock, frame * 1_000_000)
            with pytest.raises(OSError, match="reset|pipe"):
                await asyncio.wait_for(sending, 10)
            assert connection.ending is not None
            assert connection.ending.code == 4429
            # It is looked at before each step of the parser, of QUEUE frames at most.
            assert connection.dropped <= DROPPED_LIMIT + QUEUE
            await eventually(lambda: not server.sockets)


async def test_close_that_is_answered_behind_other_messages_ends_at_once(
    running: Running,
) -> None:
    async with running("rooms", message_rate_limit=10) as server, peer(server) as ann:
        for _ in range(500):
            await ann.send(type="ping")
        began = time.monotonic()
        with pytest.raises(ConnectionClosed):
            while True:
                await ann.recv()
        assert ann.socket.close_code == 4429
        await eventually(lambda: not server.sockets)
        assert time.monotonic() - began < 1.5  # its deadline would have been after 2 s


class Stopped(TokenBucket):
    """One in which no time passes: a slow machine must not refill it."""

    __slots__ = ()

    def take(self, now: float, cost: float = 1.0) -> bool:
        return super().take(self.updated, cost)


async def test_inflated_bytes_count_towards_the_rate(running: Running) -> None:
    async with running("rooms", message_rate_limit=1000) as server:
        sock, bomb = await asyncio.to_thread(attacker, server, "bombs")
        with sock:
            await eventually(lambda: len(server.connections) == 1)
            (connection,) = server.connections
            connection.bucket = Stopped(1000.0, 2000.0, time.monotonic())
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_sendall(sock, bomb * 1000), 10)
            answers = b""
            while answers.count(b'"pong"') + answers.count(b'"rate_limited"') < 1000:
                answers += await asyncio.wait_for(loop.sock_recv(sock, 2**16), 10)
        assert b'"rate_limited"' in answers  # of small ones, 2000 are a burst


# The line itself


async def test_one_goes_on_at_a_time_and_the_loop_turns_between_them() -> None:
    turns, order, ticks = Turns(), list[tuple[str, int]](), 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        asyncio.get_running_loop().call_soon(tick)

    async def work(name: str) -> None:
        for _ in range(2):
            await turns.wait()
            order.append((name, ticks))

    tick()
    await asyncio.gather(work("a"), work("b"), work("c"))
    assert [name for name, _ in order] == ["a", "b", "c", "a", "b", "c"]
    times = [at for _, at in order]
    assert all(b - a >= TICKS for a, b in zip(times, times[1:], strict=False))


def shares(count: int) -> list[Share]:
    """Return shares in one line; time gives nothing back."""
    turns = Turns()
    turns.spare.rate = 0.0
    found = [Share(turns) for _ in range(count)]
    for share in found:
        share.rate = 0.0
    return found


def test_new_connection_has_a_small_part_of_a_turn() -> None:
    (share,) = shares(1)
    assert 0.0 < share.available() <= QUANTUM / 10
    share.spend(share.level)
    share.turns.line.append(lambda: None)
    assert share.available() <= 0.0


def test_connection_that_was_idle_for_long_has_no_more_than_a_part_of_a_turn() -> None:
    (share,) = shares(1)
    share.rate = SHARE
    share.refill(time.monotonic() + 3600)
    assert 0.0 < share.level <= QUANTUM / 2


def test_connection_that_used_its_share_goes_on_while_turns_are_few() -> None:
    (share,) = shares(1)
    for _ in range(100):
        share.spend(QUANTUM / 1000)  # its share, then little of each turn
        assert share.available() > 0.0
        share.rest()


def test_full_turns_of_all_connections_together_soon_use_the_line() -> None:
    light, *heavy = shares(10)
    begun = 0
    for share in heavy:
        share.spend(share.level)
        begun += share.available() > 0.0
        share.spend(QUANTUM)
        share.rest()
    assert begun == 1
    assert light.available() > 0.0


def test_nobody_overtakes_the_line() -> None:
    waiting, other = shares(2)
    waiting.turns.line.append(lambda: None)
    other.spend(other.level)
    assert other.available() <= 0.0


async def test_cancelled_wait_holds_nobody_up() -> None:
    turns = Turns()
    first = asyncio.ensure_future(turns.wait())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(turns.wait(), 5)
    assert not turns.line


async def test_waiting_is_not_charged() -> None:
    spent: list[float] = []

    async def work() -> str:
        time.sleep(0.02)  # noqa: ASYNC251
        await asyncio.sleep(0.3)
        time.sleep(0.02)  # noqa: ASYNC251
        return "done"

    assert await timed(work(), spent.append) == "done"
    assert 0.04 <= sum(spent) < 0.3


async def test_cancelling_a_timed_coroutine_cancels_it() -> None:
    ended: list[type[BaseException]] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as exc:
            ended.append(type(exc))
            raise

    async def outer() -> None:
        await timed(work(), lambda seconds: None)

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [asyncio.CancelledError]
