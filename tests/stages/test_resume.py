"""Cursors: a client gets every message that it missed, or is told that it cannot."""

from __future__ import annotations

import asyncio
import json

import pytest
from redis import Redis

from labserver.contract.messages import Cursor, event
from labserver.server.parts import Position
from labserver.stages.resume import RecentHistory
from tests.conftest import Running, peer

pytestmark = pytest.mark.loops("uvloop", "asyncio")

KEPT = [event("a", seq, b'"from":"ann","payload":1}') for seq in range(6, 11)]
POSITION = Position("e", 10, KEPT)
HISTORY = RecentHistory(limit=5, ttl=60, replay_limit=0)


@pytest.mark.parametrize("seq", range(5, 11))
def test_every_message_after_the_cursor_follows(seq: int) -> None:
    missed = HISTORY.missed(Cursor("e", seq), POSITION)
    assert missed is not None
    assert [each.first for each in missed] == list(range(seq + 1, 11))


@pytest.mark.parametrize(
    "cursor",
    [None, Cursor("e", 4), Cursor("e", 0), Cursor("e", 11), Cursor("other", 8)],
    ids=["none", "too old", "from the start", "of the future", "another epoch"],
)
def test_nothing_is_replayed_where_one_message_is_missing(
    cursor: Cursor | None,
) -> None:
    assert HISTORY.missed(cursor, POSITION) is None


def test_replay_that_does_not_fit_the_outbox_is_not_begun() -> None:
    size = sum(len(each.json) for each in KEPT)
    for limit, fits in ((size, True), (size - 1, False)):
        history = RecentHistory(limit=5, ttl=60, replay_limit=limit)
        assert (history.missed(Cursor("e", 5), POSITION) is not None) is fits


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_replay_comes_between_joined_and_live_messages(
    without: tuple[str, ...], running: Running
) -> None:
    async with (
        running("resume", without=without) as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
    ):
        epoch = (await ann.join("red"))["epoch"]
        for number in range(20):
            await ann.ask(type="publish", room="red", payload=number)
        for number in range(20, 220):  # on the way while bob joins
            message = {"type": "publish", "room": "red", "payload": number}
            await ann.socket.send(json.dumps(message))
        await bob.send(type="join", room="red", after={"epoch": epoch, "seq": 7})
        joined = await bob.recv()
        assert joined["type"] == "joined"
        assert joined["recovered"] is True
        assert joined["seq"] >= 20
        seqs = [(await bob.recv())["seq"] for _ in range(213)]
        assert seqs == list(range(8, 221))


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_client_may_come_back_to_a_room_that_was_quiet_for_long(
    without: tuple[str, ...], running: Running
) -> None:
    """The messages are too old for the history, but the client missed none of them."""
    async with running("resume", without=without, history_ttl=1.0) as server:
        async with peer(server) as ann:
            epoch = (await ann.join("red"))["epoch"]
            await ann.ask(type="publish", room="red", payload=1)
            await asyncio.sleep(2.5)
        await asyncio.sleep(0.3)
        async with peer(server) as ann:
            joined = await ann.join("red", after={"epoch": epoch, "seq": 1})
            assert (joined["recovered"], joined["seq"]) == (True, 1)


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
@pytest.mark.parametrize(("limit", "fits"), [(2**24, True), (2**20, False)])
async def test_replay_is_as_long_as_an_outbox_whatever_the_broker(
    limit: int, fits: bool, without: tuple[str, ...], running: Running
) -> None:
    async with (
        running("resume", without=without, outbox_limit=limit) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        epoch = (await bob.join("red"))["epoch"]
        await bob.ask(type="leave", room="red")
        await ann.publish("red", 600, 4000)
        joined = await bob.join("red", after={"epoch": epoch, "seq": 0})
        assert joined["recovered"] is fits
        if fits:
            seqs = [(await bob.recv())["seq"] for _ in range(600)]
            assert seqs == list(range(1, 601))


async def test_cursor_means_nothing_without_a_history(running: Running) -> None:
    async with running("broker") as server, peer(server) as ann:
        epoch = (await ann.join("red"))["epoch"]
        await ann.ask(type="publish", room="red", payload=1)
        joined = await ann.join("red", after={"epoch": epoch, "seq": 0})
        assert joined["recovered"] is False
        assert joined["seq"] == 1


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_cursor_without_an_epoch_recovers_nothing(
    without: tuple[str, ...], running: Running
) -> None:
    async with running("resume", without=without) as server, peer(server) as ann:
        await ann.ask(type="publish", room="red", payload=1)
        joined = await ann.join("red", after={"epoch": "", "seq": 0})
        assert joined["recovered"] is False
        assert (await ann.ask(type="ping"))["type"] == "pong"  # and no replay before


async def test_recoveries_are_counted(running: Running) -> None:
    async with running("resume") as server, peer(server) as ann:
        epoch = (await ann.join("red"))["epoch"]
        await ann.join("red", after={"epoch": epoch, "seq": 0})
        await ann.join("red", after={"epoch": "other", "seq": 0})
        assert (server.metrics.recovered, server.metrics.unrecovered) == (1, 1)


async def test_history_is_read_no_further_than_a_replay_may_be_long(
    running: Running, redis: Redis
) -> None:
    async with running("resume", outbox_limit=20_000) as server, peer(server) as ann:
        epoch = (await ann.join("red"))["epoch"]
        for number in range(60):
            payload = {"n": number, "pad": "x" * 30_000}
            await ann.ask(type="publish", room="red", payload=payload)
        broker = server.parts.broker
        position = await broker.read("red", 0)
        size = sum(len(each.json) for each in position.kept)
        assert position.seq == 60
        assert 0 < size < 60 * 30_000  # not all of it crossed the wire
        joined = await ann.join("red", after={"epoch": epoch, "seq": 0})
        assert joined["recovered"] is False


async def test_replica_that_fell_far_behind_catches_up_page_by_page(
    running: Running, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labserver.redis.history.PAGE", 2000)
    async with (
        running("resume") as one,
        running("resume") as two,
        peer(one) as ann,
        peer(two) as bob,
    ):
        await ann.join("red")
        redis.client_kill_filter(_type="pubsub")
        for number in range(100):
            payload = {"n": number, "pad": "x" * 200}
            await bob.ask(type="publish", room="red", payload=payload)
        seqs = [(await ann.until("message"))["seq"] for _ in range(100)]
        assert seqs == list(range(1, 101))


async def test_memory_of_all_histories_together_is_bounded(
    running: Running,
) -> None:
    async with (
        running("resume", without=("broker",)) as server,
        peer(server) as ann,
        peer(server, "eve") as eve,
    ):
        broker = server.parts.broker
        broker.kept_limit = 100_000
        epoch = (await ann.join("red"))["epoch"]
        await ann.ask(type="publish", room="red", payload="x" * 5000)
        for number in range(100):
            payload = "x" * 5000
            await eve.join(f"room-{number}")
            await eve.ask(type="publish", room=f"room-{number}", payload=payload)
            assert 0 < broker.kept <= 110_000
        kept = sum(len(e.json) for log in broker.logs.values() for _, e in log.kept)
        assert broker.kept == kept > 50_000
        # Only the rooms of the user who filled the memory were emptied.
        joined = await ann.join("red", after={"epoch": epoch, "seq": 0})
        assert joined["recovered"]


async def test_return_to_many_rooms_is_no_flood(running: Running) -> None:
    """Joins with a cursor are free up to the rooms limit, and each leave counts."""
    cursor = {"epoch": "e", "seq": 1}
    async with (
        running("resume", message_rate_limit=1, rooms_limit=40) as server,
        peer(server) as ann,
    ):
        for number in range(40):
            message = {"type": "join", "room": f"r{number}", "ref": number}
            await ann.send(**message, after=cursor)
        answers = [await ann.recv() for _ in range(40)]
        assert [answer["type"] for answer in answers] == ["joined"] * 40


@pytest.mark.parametrize("joins", ["the same room", "no cursor"])
async def test_other_joins_count_as_messages(joins: str, running: Running) -> None:
    cursor = {"epoch": "e", "seq": 1}
    more = {"after": cursor} if joins == "the same room" else {}
    async with (
        running("resume", message_rate_limit=10) as server,
        peer(server) as ann,
    ):
        for number in range(30):
            room = "a" if more else f"r{number}"
            await ann.send(type="join", room=room, ref=number, **more)
        codes = [(await ann.recv()).get("code") for _ in range(30)]
        assert "rate_limited" in codes


# A room that was forgotten, and has a new epoch: what is gone is told, the rest given


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_client_of_an_epoch_that_is_gone_gets_the_new_one_from_its_start(
    without: tuple[str, ...], running: Running
) -> None:
    async with (
        running("resume", without=without) as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
    ):
        epoch = (await ann.join("red"))["epoch"]
        for number in range(20):
            await ann.ask(type="publish", room="red", payload=number)
        for number in range(20, 60):  # on the way while bob joins
            await ann.send(type="publish", room="red", payload=number)
        gone = {"epoch": "gone", "seq": 40}
        joined = await bob.join("red", after=gone, from_start=True)
        assert (joined["recovered"], joined["seq"]) == (False, 0)
        assert joined["epoch"] == epoch
        heard = [await bob.until("message") for _ in range(60)]
        assert [each["seq"] for each in heard] == list(range(1, 61))
        await ann.ask(type="publish", room="red", payload="live")
        assert (await bob.recv())["seq"] == 61


async def test_of_the_new_epoch_all_is_given_that_is_kept(running: Running) -> None:
    async with (
        running("resume", history_limit=3) as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
    ):
        epoch = (await ann.join("red"))["epoch"]
        for number in range(4):
            await ann.ask(type="publish", room="red", payload=number)
        # Too old, or ahead, but of an epoch that is not gone: there is no replay.
        for seq in (0, 9):
            after = {"epoch": epoch, "seq": seq}
            joined = await bob.join("red", after=after, from_start=True)
            assert (joined["recovered"], joined["seq"]) == (False, 4)
        assert (await bob.ask(type="ping"))["type"] == "pong"
        after = {"epoch": "gone", "seq": 1}
        joined = await bob.join("red", after=after, from_start=True)
        assert (joined["recovered"], joined["seq"]) == (False, 1)
        assert [(await bob.recv())["seq"] for _ in range(3)] == [2, 3, 4]
        assert server.metrics.unrecovered == 3


def test_messages_before_a_common_past_are_not_given_again() -> None:
    went_on = Position("new", 12, (), before=("old", 8))
    assert went_on.start(Cursor("old", 8)) is None  # its cursor is still good
    assert went_on.start(Cursor("old", 10)) == 8
    assert went_on.start(Cursor("older", 10)) == 0
    assert went_on.start(Cursor("new", 13)) is None
    assert went_on.start(None) is None
