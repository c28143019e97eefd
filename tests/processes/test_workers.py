"""Several processes on one port: one world, and one that dies comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.protocol import State

from labserver.errors import SettingsError
from labserver.processes.cluster import (
    Replica,
    running_replica,
    start_replica,
)
from labserver.processes.launch import NotListening
from labserver.processes.workers import LOOK_INTERVAL, Worker, WorkerFailed
from labserver.settings import Settings
from tests.conftest import DEADLINE, SECRET, Peer, eventually, peer

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a shared port is not shared evenly"
)


SERVE = "-m labserver serve"


def children(pid: int) -> dict[int, str]:
    """Return pid and command line of a process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    found = {}
    for child in map(int, text.split()):
        try:
            found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # gone meanwhile
    return found


def workers(server: Replica) -> set[int]:
    return {pid for pid, line in children(server.pid).items() if SERVE in line}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def one_of_each(stack: AsyncExitStack, server: Replica) -> list[Peer]:
    """Connect until each of two workers has a client."""
    found: dict[str, Peer] = {}
    async with asyncio.timeout(20):  # one may still be starting
        while len(found) < 2:
            async with AsyncExitStack() as attempt:
                client = await attempt.enter_async_context(peer(server.url))
                if found.setdefault(client.hello["replica"], client) is client:
                    stack.push_async_exit(attempt.pop_all())
            await asyncio.sleep(0.005)
    return list(found.values())


async def test_workers_are_one_world_and_drain_together() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running_replica("resume", "--workers", "2", secret=SECRET)
        )
        pids = workers(server)
        assert len(pids) == 2
        ann, bob = await one_of_each(stack, server)
        await ann.join("a")
        await bob.join("a")
        await ann.send(type="publish", room="a", payload=1)
        await bob.send(type="publish", room="a", payload=2)
        heard = [
            [(await client.until("message"))["payload"] for _ in range(2)]
            for client in (ann, bob)
        ]
        assert heard[0] == heard[1]
        assert sorted(heard[0]) == [1, 2]
        ends = [asyncio.create_task(client.closed()) for client in (ann, bob)]
        await asyncio.sleep(0)
        assert await server.stop() == 0
        assert [await end for end in ends] == [1001, 1001]
        assert not any(map(alive, pids))


async def test_worker_that_dies_is_started_again_and_the_others_stay() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running_replica("resume", "--workers", "2", secret=SECRET)
        )
        ann, bob = await one_of_each(stack, server)
        await ann.join("a")
        gone = workers(server).pop()  # whichever: one of the two loses its client
        os.kill(gone, signal.SIGKILL)
        await eventually(lambda: len(workers(server) - {gone}) == 2, within=20)

        def left() -> list[Peer]:
            return [each for each in (ann, bob) if each.socket.state is State.OPEN]

        await eventually(lambda: len(left()) == 1)
        (stayed,) = left()
        async with AsyncExitStack() as again:
            new = await one_of_each(again, server)
            await stayed.join("b")
            await new[0].send(type="publish", room="b", payload="again")
            assert (await stayed.until("message"))["payload"] == "again"


@pytest.mark.timeout(90)
async def test_worker_that_stands_still_is_replaced_and_gets_no_handshake() -> None:
    async with running_replica("resume", "--workers", "2", secret=SECRET) as server:
        stopped = workers(server).pop()
        os.kill(stopped, signal.SIGSTOP)
        try:
            await eventually(
                lambda: len(workers(server) - {stopped}) == 2, within=DEADLINE + 30
            )
            assert not alive(stopped)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGCONT)
        async with AsyncExitStack() as stack:
            await one_of_each(stack, server)
            for _ in range(10):
                await stack.enter_async_context(peer(server.url))


async def test_worker_that_is_only_busy_stays() -> None:
    async with running_replica("resume", "--workers", "2", secret=SECRET) as server:
        before = workers(server)
        busy = min(before)
        os.kill(busy, signal.SIGSTOP)
        # Less than a look and the next: what it did not say it says afterwards.
        await asyncio.sleep(LOOK_INTERVAL - 1)
        os.kill(busy, signal.SIGCONT)
        await asyncio.sleep(LOOK_INTERVAL)
        assert workers(server) == before


async def test_one_redis_is_shared_and_ends_with_them() -> None:
    server = await start_replica("broker", "--workers", "2", secret=SECRET)
    try:
        family = children(server.pid)
        redis = [pid for pid, line in family.items() if SERVE not in line]
        assert len(redis) == 1
        assert not any(children(pid) for pid in workers(server))
        # Killed, it cannot say goodbye to them: the kernel does.
        server.process.kill()
        await server.process.wait()
        await eventually(lambda: not any(map(alive, family)), within=20)
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("rooms",), "needs the stage broker"),
        (("resume", "--without", "broker"), "needs the stage broker"),
        (("resume", "--unix-socket", "/tmp/lab.sock"), "cannot share"),
        (("resume", "--tls-cert", "/nowhere", "--tls-key", "/nowhere"), "No such file"),
    ],
)
async def test_what_workers_cannot_do_is_one_line(
    arguments: tuple[str, ...], why: str
) -> None:
    with pytest.raises(NotListening, match=why) as ended:
        await start_replica(*arguments, "--workers", "2")
    assert "\n" not in str(ended.value)


async def test_port_of_others_is_not_shared_by_mistake() -> None:
    async with running_replica("broker", "--workers", "2", secret=SECRET) as server:
        port = server.url.rpartition(":")[2]
        with pytest.raises(NotListening, match="in use"):
            await start_replica("broker", "--workers", "2", "--port", port)


async def test_worker_that_does_not_listen_is_an_error_and_leaves_nothing() -> None:
    worker = Worker(1, ["--stage", "nonsense"], Settings(secret=SECRET))
    with pytest.raises(WorkerFailed):
        await worker.start()
    assert worker.process is not None
    await worker.stop(1.0)
    assert not alive(worker.process.pid)


async def test_worker_that_cannot_be_started_now_is_started_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker(1, [], Settings(secret=SECRET))
    says = "print('listening on it', flush=True); import time; time.sleep(60)"
    good, worker.command = [sys.executable, "-c", says], ["/nowhere"]
    # As fork() fails while there is no memory, or no process left.
    first = worker.process = await asyncio.create_subprocess_exec("true")
    keeper = asyncio.create_task(worker.keep())
    try:
        await eventually(lambda: keeper.done() or len(caplog.records) >= 2)
        assert not keeper.done()
        worker.command = good
        await eventually(lambda: worker.process is not first)
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])
        await worker.stop(1.0)


@pytest.mark.parametrize("count", [0, 65])
def test_number_of_workers_is_bounded(count: int) -> None:
    with pytest.raises(SettingsError, match="LAB_WORKERS"):
        Settings(workers=count)
