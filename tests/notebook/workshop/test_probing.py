"""A learner's class serves in its part's place, and its promises are checked."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from labserver.contract.closing import Return, after_status, comes_back
from labserver.errors import SettingsError
from labserver.judge import Broken, World
from labserver.judge.outcomes import must
from labserver.judge.run import Finding
from labserver.mistakes.broker import NoResubscribe
from labserver.mistakes.heartbeat import SweepReturns
from labserver.notebook import Probed, probe
from labserver.notebook.workshop.backoff import Told
from labserver.server.parts import Position
from labserver.settings import Settings
from labserver.stages.auth import TokenAdmission
from labserver.stages.broker import RedisBroker
from labserver.stages.heartbeat import WheelHeartbeat

pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]


class Deaf(WheelHeartbeat):
    """Never ends anybody."""

    def is_dead(self, connection: object) -> bool:
        return False


class Holds(WheelHeartbeat):
    """Holds the event loop for ever."""

    def watch(self, connection: object) -> None:
        while True:
            pass


class Raises(WheelHeartbeat):
    def look(self, connection: object) -> None:
        raise KeyError("no such thing")


class Empty:
    interval = 1.0

    async def start(self, metrics: object) -> None: ...

    async def stop(self) -> None: ...

    def watch(self, connection: object) -> None: ...

    def forget(self, connection: object) -> None: ...


class Bare:
    """A broker that has only what its promise needs."""

    def __init__(self, url: str) -> None:
        self.ours = RedisBroker(url)

    async def start(self, *about: Any) -> None:
        await self.ours.start(*about)

    async def stop(self) -> None:
        await self.ours.stop()

    def publish(self, *about: Any) -> asyncio.Future[int]:
        return self.ours.publish(*about)

    async def subscribe(self, room: str) -> None:
        await self.ours.subscribe(room)

    async def read(self, room: str, after: int | None) -> Position:
        return await self.ours.read(room, after)


class Half:
    def watch(self, connection: object) -> None: ...

    def start(self) -> None: ...


class Wants(WheelHeartbeat):
    def __init__(self, colour: str) -> None:
        super().__init__(1.0)


class Placeless(TokenAdmission):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        del self.places


async def nothing(reader: object, writer: object) -> None: ...


def not_async(reader: object, writer: object) -> None:
    raise AssertionError


async def yields(reader: object, writer: object) -> AsyncIterator[None]:
    yield


async def takes_one(reader: object) -> None:
    raise AssertionError


def fair(attempt: int, told: Told, draw: Callable[[], float]) -> float | None:
    status = after_status(told.status) if told.status else Return.SOON
    if {status, comes_back(told.code)} & {Return.NEVER, Return.NEW_TOKEN}:
        return None
    return told.wait + draw() * min(20.0, 0.5 * 2.0 ** min(attempt, 10))


def in_words(attempt: int, told: Told, draw: Callable[[], float]) -> str:
    return "soon"


def fails(attempt: int, told: Told, draw: Callable[[], float]) -> float:
    raise KeyError("no such time")


def raises() -> None:
    raise KeyError("no such key")


async def calls_what_raises(reader: object, writer: object) -> None:
    raises()


async def spins(reader: object, writer: object) -> None:
    while True:
        pass


async def reads_after_the_end(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    # When the client has left, read() returns at once, and gives nobody else a turn.
    while True:
        await reader.read(100)


async def test_right_part_keeps_every_promise_up_to_its_stage() -> None:
    probed = await probe(WheelHeartbeat)
    assert probed.kept, repr(probed)
    assert {each.stage for each in probed.findings} == {
        "echo", "auth", "rooms", "heartbeat",
    }  # fmt: skip
    assert "keeps its promise" in probed._repr_markdown_()


async def test_class_that_is_not_written_is_not_judged() -> None:
    probed = await probe(Empty)
    assert not probed.written and not probed.kept
    assert "Empty: not written yet" in repr(probed)


async def test_what_the_class_raises_is_told_with_its_line() -> None:
    probed = await probe(Raises, before=False)
    (told,) = probed.raised
    assert told.startswith("KeyError: 'no such thing' (in Raises.look, line ")
    assert told in probed._repr_markdown_()


class RaisesOften(WheelHeartbeat):
    def look(self, connection: object) -> None:
        raise KeyError(object())


async def test_what_differs_by_an_address_only_is_told_once() -> None:
    probed = await probe(RaisesOften, before=False)
    (told,) = probed.raised
    assert told.startswith("KeyError: <object object> (in RaisesOften.look, line ")


def test_check_that_was_not_asked_is_named_with_its_reason() -> None:
    findings = [
        Finding("rooms", "one", "A holds.", "kept"),
        Finding("rooms", "two", "B holds.", "skipped", "asks somebody else"),
    ]
    probed = Probed("MyRooms", "application", "rooms", findings)
    assert repr(probed) == "MyRooms as application: kept, 1 checks"
    shown = probed._repr_markdown_()
    assert "- Not asked: B holds. (asks somebody else)" in shown


@pytest.mark.parametrize("part", [Deaf, SweepReturns])
async def test_wrong_part_breaks_its_own_promise_only(part: type) -> None:
    probed = await probe(part)
    broken = {each.stage for each in probed.findings if each.outcome == "broken"}
    assert broken == {"heartbeat"}, repr(probed)
    assert "still connected" in repr(probed)


async def test_broker_needs_only_what_its_promise_needs() -> None:
    probed = await probe(Bare, before=False)
    assert probed.kept, repr(probed)


async def test_redis_of_a_broker_is_frozen_and_emptied() -> None:
    probed = await probe(NoResubscribe, before=False)
    broken = {each.check for each in probed.findings if each.outcome == "broken"}
    assert broken == {
        "broken_link_loses_nothing",
        "frozen_redis_loses_nothing",
        "emptied_redis_is_told",
    }, repr(probed)


async def test_function_that_says_how_long_to_wait_is_judged_by_a_crowd() -> None:
    probed = await probe(fair)
    assert probed.kept, repr(probed)
    assert {each.stage for each in probed.findings} == {"resume"}
    assert "fair` waits well and keeps its promise" in probed._repr_markdown_()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("in_words", "returned 'soon': that is neither"), ("fails", "raised KeyError")],
)
async def test_function_that_says_no_time_is_told_so(wrong: str, words: str) -> None:
    probed = await probe(globals()[wrong])
    broken = [each for each in probed.findings if each.outcome == "broken"]
    assert len(broken) == len(probed.findings)
    assert all(words in each.seen for each in broken), repr(probed)
    assert bool(probed.raised) is (wrong == "fails")


async def test_coroutine_that_is_not_written_is_not_judged() -> None:
    probed = await probe(nothing)
    assert not probed.written and not probed.kept
    assert "nothing: not written yet" in repr(probed)


async def test_what_a_coroutine_and_what_it_calls_raise_is_told_with_its_line() -> None:
    probed = await probe(calls_what_raises)
    assert not probed.kept
    (told,) = probed.raised
    assert told.startswith("KeyError: 'no such key' (in raises, line ")
    assert "labserver/judge/starters/stdlib.py" in probed._repr_markdown_()


async def test_loop_that_stands_still_is_not_blamed_on_a_class_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stalls(world: World) -> None:
        time.sleep(1.0)  # noqa: ASYNC251

    module = "labserver.notebook.workshop.probing"
    monkeypatch.setattr(f"{module}.STUCK", 0.2)
    monkeypatch.setattr(f"{module}.checks_up_to", lambda *about: [("echo", stalls)])
    probed = await probe(WheelHeartbeat)
    assert not probed.hung
    assert probed.kept


@pytest.mark.parametrize("times", [1, 2])
async def test_check_that_waited_in_vain_is_asked_again_with_more_patience(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def waits_in_vain(world: World) -> None:
        waits.append(world.patience)
        if len(waits) <= times:
            raise Broken("waited in vain for an answer")

    checks = [("echo", waits_in_vain)]
    monkeypatch.setattr(
        "labserver.notebook.workshop.probing.checks_up_to", lambda *about: checks
    )
    probed = await probe(WheelHeartbeat)
    assert len(waits) == 2 and waits[1] > waits[0]
    assert probed.kept is (times == 1)
    assert len(probed.findings) == 1


@pytest.mark.parametrize("late", [False, True])
async def test_check_that_broke_while_the_machine_was_busy_is_asked_again(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[World] = []

    async def breaks_at_first(world: World) -> None:
        asked.append(world)
        if late:
            time.sleep(0.3)  # noqa: ASYNC251
        await asyncio.sleep(0.1)
        must(len(asked) > 1, "a message came after 1.2 s")

    checks = [("echo", breaks_at_first)]
    monkeypatch.setattr(
        "labserver.notebook.workshop.probing.checks_up_to", lambda *about: checks
    )
    probed = await probe(WheelHeartbeat)
    assert probed.kept is late
    assert len(asked) == 1 + late


@pytest.mark.parametrize(
    ("noise", "why"), [("once", "the pings go out"), ("late", ""), ("again", "too few")]
)
async def test_why_does_not_rest_on_what_a_busy_machine_may_have_caused(
    noise: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[World] = []

    async def who_vanished_is_ended(world: World) -> None:
        raise Broken("12 of 12 dead peers are still connected")

    async def pings_are_no_burst(world: World) -> None:
        asked.append(world)
        if noise == "late":
            time.sleep(0.3)  # noqa: ASYNC251
        await asyncio.sleep(0.1)
        if noise != "once" or len(asked) == 1:
            raise Broken("waited 2 s in vain for a ping to each")

    checks = [("heartbeat", who_vanished_is_ended), ("heartbeat", pings_are_no_burst)]
    monkeypatch.setattr(
        "labserver.notebook.workshop.probing.checks_up_to", lambda *about: checks
    )
    # The machine of this test may be busy itself.
    monkeypatch.setattr("labserver.notebook.workshop.probing.LATE", 0.2)
    probed = await probe(WheelHeartbeat)
    assert len(asked) == 2
    assert probed.why.startswith(why) and bool(probed.why) is bool(why), repr(probed)
    shown = probed._repr_markdown_()
    assert ("this machine was busy meanwhile" in shown) is (noise == "late")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hangs", ["spins", "reads_after_the_end"])
async def test_coroutine_that_hangs_is_stopped(hangs: str) -> None:
    probed = await probe(globals()[hangs])
    gc.collect()
    assert probed.hung == f"{hangs} held the event loop for 3 s: stopped."
    assert not probed.kept


# The loop that was interrupted leaves its sockets to the collector.
@pytest.mark.filterwarnings("ignore")
async def test_part_that_hangs_is_stopped() -> None:
    probed = await probe(Holds)
    gc.collect()
    assert probed.hung == "Holds held the event loop for 3 s: stopped."
    assert not probed.kept


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Half, "Half looks like heartbeat, and lacks forget, stop"),
        (Wants, "Wants wants 'colour', and can be given: settings, interval"),
        (dict, "dict is no part of a server"),
        (3, "probe takes a class or an async function, not int: 3"),
        (Placeless, "Placeless has no attribute places, such as Places"),
        (not_async, "not_async should be an async function"),
        (yields, "yields should be an async function .async def., without yield"),
        (takes_one, "takes_one is called with a reader and a writer: too many"),
    ],
)
async def test_class_of_the_wrong_shape_gets_a_sentence(
    part: object, words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        await probe(part)


def test_rows_that_are_left_out_are_counted_and_waits_are_told_apart() -> None:
    def found(seen: str) -> Finding:
        return Finding("heartbeat", "a_check", "Says.", "broken", seen)

    late = Probed("Mine", "heartbeat", "heartbeat", [found("waited 2 s in vain")] * 8)
    shown = late._repr_markdown_()
    assert "2 more broken checks are not shown" in shown
    assert "All of them waited in vain" in shown
    wrong = Probed("Mine", "heartbeat", "heartbeat", [found("closed with 1006")])
    assert "not shown" not in wrong._repr_markdown_()
    assert "in vain" not in wrong._repr_markdown_()
