"""Long polls: missed messages come at once, or else the next one, and each once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis import Redis

from labserver.contract.messages import event
from labserver.contract.tokens import issue
from labserver.http.listener import WebServer
from labserver.notebook.experiments.transports import three_ways
from labserver.server.server import LabServer
from labserver.stages import STAGES
from tests.conftest import Running, eventually, peer
from tests.support.plain_http import Answer, ask, poll, port_of, post, request


def cursor(answer: Answer) -> str:
    return f"{answer.body['epoch']}:{answer.body['seq']}"


def payloads(answer: Answer) -> list[object]:
    return [each["payload"] for each in answer.body["messages"]]


async def waiting(server: LabServer, count: int = 1) -> None:
    """Wait until the polls are members of their room."""
    await eventually(lambda: sum(bool(v.rooms) for v in server.visitors) == count)


@pytest.mark.parametrize("stage", [*STAGES][2:])
async def test_poll_waits_for_the_next_message(stage: str, running: Running) -> None:
    async with running(stage, sse_port=0) as server:
        start = await poll(server, "red")
        assert start.status == 200
        assert start.body["messages"] == []
        waits = asyncio.create_task(poll(server, "red", cursor(start)))
        await waiting(server)
        await post(server, "red", "news")
        answer = await waits
        assert answer.body["recovered"] is (stage in ("broker", "resume"))
        assert answer.body["seq"] == 1
        assert payloads(answer) == ["news"]
        assert answer.headers["cache-control"] == "no-store"
        await eventually(lambda: not server.hub.rooms)


async def test_polls_in_turn_get_every_message_once_from_any_replica(
    running: Running,
) -> None:
    async with (
        running("resume", sse_port=0) as one,
        running("resume", sse_port=0) as two,
        peer(one) as ann,
    ):
        answer = await poll(one, "red")
        heard: list[object] = []

        async def publish() -> None:
            for number in range(100):
                await ann.ask(type="publish", room="red", payload=number)

        publishing = asyncio.create_task(publish())
        while len(heard) < 100:
            one, two = two, one
            answer = await poll(one, "red", cursor(answer))
            assert answer.body["recovered"] is True
            heard += payloads(answer)
        assert heard == list(range(100))
        await publishing


async def test_messages_that_do_not_fit_one_answer_come_with_the_next(
    running: Running,
) -> None:
    async with running("resume", sse_port=0, outbox_limit=10_000) as server:
        answer = await poll(server, "red")
        waits = asyncio.create_task(poll(server, "red", cursor(answer)))
        await waiting(server)
        said = [post(server, "red", f"{n}" + "x" * 4000) for n in range(6)]
        await asyncio.gather(*said)
        answer = await waits
        assert 1 <= len(answer.body["messages"]) <= 2
        assert answer.body["seq"] == len(answer.body["messages"])


async def test_answer_holds_what_fits_of_one_tick(running: Running) -> None:
    async with running("resume", sse_port=0, outbox_limit=10_000) as server:
        answer = await poll(server, "red")
        waits = asyncio.create_task(poll(server, "red", cursor(answer)))
        await waiting(server)
        for seq in range(1, 7):
            tail = b'"from":"ann","payload":"%b"}' % (b"x" * 4000)
            server.hub.deliver("red", event("red", seq, tail))
        answer = await waits
        assert [each["seq"] for each in answer.body["messages"]] == [1, 2]
        assert answer.body["seq"] == 2


async def test_quiet_room_keeps_its_numbering_between_two_polls(
    running: Running,
) -> None:
    async with running("resume", without=("broker",), sse_port=0) as server:
        start = await poll(server, "red")
        for name in ("blue", "green", "grey"):
            await poll(server, name)
        answer = await poll(server, "red", cursor(start), wait=0.01)
        assert answer.body == {**start.body, "recovered": True}


async def test_poll_ends_empty_handed_with_the_same_cursor(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        start = await poll(server, "red")
        answer = await poll(server, "red", cursor(start), wait=0.05)
        assert answer.body == {**start.body, "recovered": True}


async def test_poll_with_a_cursor_of_another_epoch_is_told_at_once(
    running: Running,
) -> None:
    async with running("resume", sse_port=0) as server:
        start = await poll(server, "red")
        answer = await poll(server, "red", "other:1")
        assert answer.body == {**start.body, "recovered": False}


async def test_poll_of_an_epoch_that_is_gone_gets_the_new_one_from_its_start(
    running: Running, redis: Redis
) -> None:
    async with running("resume", sse_port=0) as server:
        for number in range(3):
            await post(server, "red", number)
        start = await poll(server, "red")
        redis.flushall()
        await poll(server, "red")  # somebody is there: the room keeps what is said
        for number in range(4):
            await post(server, "red", f"new {number}")
        answer = await poll(server, "red", cursor(start))
        assert (answer.body["recovered"], answer.body["seq"]) == (False, 4)
        assert payloads(answer) == [f"new {number}" for number in range(4)]
        answer = await poll(server, "red", cursor(answer), wait=0.01)
        assert (answer.body["recovered"], answer.body["messages"]) == (True, [])


async def test_poll_hears_that_the_numbering_began_anew(
    running: Running, redis: Redis
) -> None:
    async with running("resume", sse_port=0) as server:
        await post(server, "red", 1)
        start = await poll(server, "red")
        waits = asyncio.create_task(poll(server, "red", cursor(start)))
        await waiting(server)
        redis.flushall()
        await post(server, "red", 2)
        answer = await waits
        assert answer.body["recovered"] is False
        assert answer.body["epoch"] != start.body["epoch"]


async def test_poll_of_a_client_that_left_is_forgotten(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        start = await poll(server, "red")
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(request("GET", f"/rooms/red/poll?after={cursor(start)}"))
        await waiting(server)
        writer.transport.abort()
        await eventually(lambda: not server.visitors and not server.hub.rooms)


async def test_poll_that_is_cancelled_leaves_no_task(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        before = await poll(server, "red")
        tasks = asyncio.all_tasks()
        waits = asyncio.create_task(poll(server, "red", cursor(before)))
        await waiting(server)
        assert isinstance(server.web, WebServer)
        (answering,) = server.web.server.server_state.tasks
        answering.cancel()
        with contextlib.suppress(Exception):
            await waits
        await eventually(lambda: not asyncio.all_tasks() - tasks)


async def test_drain_ends_polls_and_says_when_to_return(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        start = await poll(server, "red")
        waits = asyncio.create_task(poll(server, "red", cursor(start)))
        await waiting(server)
        await server.drain(5.0)
        answer = await waits
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1


async def test_token_that_runs_out_ends_a_poll(running: Running) -> None:
    token = issue("a secret of thirty-two bytes or more", "ann", ttl=1.5)
    async with running("resume", sse_port=0) as server:
        start = await poll(server, "red")
        answer = await poll(server, "red", cursor(start), token=token)
        assert answer.status == 401


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "1e3", "soon", ""])
async def test_invalid_wait_is_refused(wait: str, running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        answer = await ask(server, "GET", f"/rooms/red/poll?wait={wait}")
        assert (answer.status, answer.body["code"]) == (400, "bad_message")


async def test_many_polls_at_a_time_are_one_room(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        start = await poll(server, "red")
        polls = [
            asyncio.create_task(poll(server, "red", cursor(start))) for _ in range(200)
        ]
        await waiting(server, 200)
        await post(server, "red", "all")
        answers = await asyncio.gather(*polls)
        assert all(payloads(each) == ["all"] for each in answers)
        assert server.metrics.polls == 201


async def test_numbering_that_goes_on_takes_nothing_out_of_an_answer(
    running: Running,
) -> None:
    async with running("resume", sse_port=0) as server:
        start = await poll(server, "red")
        waits = asyncio.create_task(poll(server, "red", cursor(start)))
        await waiting(server)
        said = [event("red", n, b'"from":"ann","payload":%d}' % n) for n in (1, 2)]
        server.hub.deliver("red", said[0])
        server.hub.renumber("red", "f", 2, goes_on=True)
        server.hub.deliver("red", said[1])
        answer = await waits
        assert payloads(answer) == [1, 2][: len(payloads(answer))]
        assert cursor(answer) == f"f:{len(payloads(answer))}"


async def test_listeners_of_the_chapter_come_back_when_they_were_turned_away() -> None:
    ways = await three_ways(messages=3, admission_rate=3)
    assert {name: heard.missed(3) for name, heard in ways.items()} == dict.fromkeys(
        ("WebSocket", "event stream", "long poll"), 0
    )
