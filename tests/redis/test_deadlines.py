"""A server that stalled reads its sockets before it decides that a peer is silent."""

from __future__ import annotations

import asyncio
import time

import pytest

from labserver.redis.deadlines import STEPS, Patience
from labserver.redis.link import SILENCE
from tests.conftest import Running, eventually, peer
from tests.redis.test_link import hears


async def test_server_that_stalled_does_not_give_up_redis(running: Running) -> None:
    async with running("resume") as server, peer(server) as ann:
        await hears(server)
        node = server.parts.broker.redis.node
        generation = node.link.generation
        await ann.send(type="publish", room="red", payload=1, ref="said")
        time.sleep(1.2 * SILENCE)  # noqa: ASYNC251 (this is what is tested)
        assert server.unready() is None
        assert (await ann.until("ack"))["seq"] == 1
        assert (await ann.join("blue"))["type"] == "joined"
        await eventually(lambda: not node.link.deaf)
        assert node.link.generation == generation


async def test_patience_ends() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with Patience(0.2):
            await asyncio.sleep(60)
    # Each of its steps may be a millisecond short, and none may be left out.
    assert time.monotonic() - began >= 0.2 * 0.9


async def test_last_look_is_at_what_came_before_it() -> None:
    patience = Patience(60)
    with pytest.raises(TimeoutError):
        async with patience:
            for _ in range(STEPS):
                patience.timer.cancel()
                patience._step()
                assert patience.timeout.when() is None
                await asyncio.sleep(0)
            patience._step()
            await asyncio.sleep(10)


async def test_one_stall_is_not_the_whole_deadline() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    async with Patience(0.4):
        time.sleep(1)  # noqa: ASYNC251 (this is what is tested)
        loop.call_later(0.1, answer.set_result, "late")
        assert await answer == "late"
