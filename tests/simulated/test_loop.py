"""The virtual loop: its clock, its processes, and what chance may decide."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from labserver.simulated.loop import Process, VirtualLoop


def process(loop: VirtualLoop, name: str) -> Process:
    return Process(loop, name, "seed")


def order(seed: str) -> list[str]:
    """Return the order in which two processes do three things each."""
    loop, done = VirtualLoop(seed), list[str]()

    async def work(name: str) -> None:
        for _ in range(3):
            done.append(name)
            await asyncio.sleep(0)

    both = [Process(loop, name, seed).start(work(name)) for name in "ab"]
    loop.run_until_complete(asyncio.wait(both))
    loop.close()
    return done


def test_an_hour_without_events_takes_no_time() -> None:
    loop, began = VirtualLoop("seed"), time.perf_counter()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() >= 3600
    assert time.perf_counter() - began < 5
    loop.close()


def test_seed_decides_which_process_is_first() -> None:
    assert order("1") == order("1")
    assert len({tuple(order(str(seed))) for seed in range(20)}) > 1


def test_callbacks_of_one_process_run_in_the_order_of_the_calls() -> None:
    for seed in range(20):
        loop, seen = VirtualLoop(str(seed)), list[int]()

        async def work(seen: list[int] = seen) -> None:
            loop = asyncio.get_running_loop()
            for number in range(5):
                loop.call_soon(seen.append, number)
            await asyncio.sleep(0.01)

        loop.run_until_complete(process(loop, "a").start(work()))
        assert seen == [0, 1, 2, 3, 4]
        loop.close()


def test_killed_process_runs_no_finally() -> None:
    loop, seen = VirtualLoop("seed"), list[str]()

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append("finally")

    victim = process(loop, "a")
    task = victim.start(work())
    loop.run_until_complete(asyncio.sleep(1))
    victim.kill()
    loop.run_until_complete(asyncio.sleep(100))
    assert not task.done() and not seen
    victim.dead = victim.due = False
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_process_that_stood_still_sees_its_timers_late() -> None:
    loop = VirtualLoop("seed")

    async def work() -> float:
        await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    still = process(loop, "a")
    task, began = still.start(work()), loop.time()
    loop.run_until_complete(asyncio.sleep(0.5))
    still.stop()
    loop.run_until_complete(asyncio.sleep(5))
    still.go_on()
    assert loop.run_until_complete(task) - began >= 5.5
    loop.close()


def test_world_without_an_end_is_ended() -> None:
    loop = VirtualLoop("seed")
    loop.limit = 1000

    async def spin() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    task = loop.create_task(spin())
    with pytest.raises(RuntimeError, match="no end after 1,000 steps"):
        loop.run_until_complete(task)
    loop.limit += 1000
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
