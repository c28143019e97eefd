"""Every promise can fail: each probe fails on its mistakes, for the right reason."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import Redis
from rich.console import Console

from labserver.cli import listing
from labserver.errors import SettingsError
from labserver.judge import PROBES, PROMISES, Broken, Skipped, World
from labserver.judge.peers import Served
from labserver.judge.run import checks_up_to, judge
from labserver.judge.world import PATIENCE, SECRET, stalled
from labserver.mistakes import MISTAKES
from labserver.notebook import compare
from labserver.processes.cluster import running_replica
from labserver.server.server import LabServer
from labserver.stages import STAGES
from tests.conftest import Command
from tests.judge.test_judge import FAULTS, GIVES_UP, LONG, SEEN, WRONGS, broken

REASONS = {
    "unguarded-parse": "closed with 1011 before the error bad_json",
    "double-numbers": r"0 came back as 0\.0",
    "no-size-limit": "bytes too many",
    "accept-then-check": "HTTP 101 instead of 401 for no token",
    "algorithm-from-token": "HTTP 101 instead of 401 for a token with alg none",
    "prefix-compare": "HTTP 101 instead of 401 for a token with alg none",
    "no-origin-check": "HTTP 101 instead of 403 for http://elsewhere",
    "expiry-once": "in vain for the end of a connection whose token expired",
    "header-only": "HTTP 401 instead of 101 for a good token in the cookie",
    "anybodys-token": "in vain for an end after a refresh with another user's token",
    "timer-outlives": "a connection that has ended is held",
    "listener-per-join": "duplicated 51",
    "rooms-never-forgotten": "disconnected is still a key of `hub.rooms`",
    "live-set": "in vain for a message while another member leaves",
    "encoded-per-member": "6 frames were built for 3 messages",
    "write-per-message": "20 writes for 20 messages",
    "sweep-returns": r"\d of 6 dead peers still open",
    "close-instead-of-abort": r"\d of 6 dead peers still open",
    "pings-in-one-tick": "24 of 24 pings within",
    "library-keepalive": r"\d of 6 dead peers still open",
    "unbounded-buffer": "bytes held, limit 65536",
    "await-in-the-loop": "in vain for the healthy reader's messages",
    "dropped-in-silence": r"[1-9]\d* lost without a gap",
    "control-dropped": "of 100 answers were dropped",
    "deliver-locally": "members got different messages",
    "own-message-twice": "duplicated [1-9]",
    "subscribe-to-everything": "2 replicas got the message, 1 have members",
    "unsubscribe-races-join": "in vain for a message after leaving and joining",
    "no-resubscribe": "in vain for the messages after the link broke",
    "no-epoch": "recovered by a cursor .*nonsense",
    "partial-replay": "recovered, with 20 of 21 missed messages",
    "epoch-alone": "refused after seq 8 of the epoch before",
    "nothing-is-none": "not recovered after the newest message",
    "shared-replay": r"seqs \[[\d, ]+\] came again",
    "endless-replay": "closed with 4409 before a joined",
    "replay-then-subscribe": r"[1-9]\d* lost without a gap",
    "live-overtakes-replay": "reordered [1-9]",
    "ageless": "in vain for old messages to be forgotten",
    "one-ring": "5 messages forgotten",
    "no-jitter": "1000 of 1000 clients return at first",
    "doubled-before-use": "the first wait is up to 1 s, not at most 0.5",
    "cap-after-jitter": r"9\d\d of 1000 clients return at last",
    "returns-anyway": "came back after 4403",
}

# What a mistake breaks of an earlier promise, too: with a message that comes twice, a
# server of stage broker breaks the promise of rooms as well. Who joins a room in which
# messages were delivered without their turn waits for them in vain.
ALSO = {
    "deliver-locally": {"others_may_vanish"},
    "own-message-twice": {
        *("everyone_hears_it_once", "who_left_hears_nothing", "others_may_vanish"),
        *("each_room_counts_for_itself", "what_cannot_be_served_is_answered"),
    },
}

CRASHES = {"unguarded-parse"}  # where an exception is the point


def world_of(name: str, stage: str, redis_url: str) -> World:
    # A probe waits one second for a message that never comes. The right version gets
    # more time (test_promises.py), though it needs a few milliseconds.
    waits = "in vain", "disconnected"
    patience = 1.0 if any(each in REASONS[name] for each in waits) else PATIENCE
    return World(stage, redis_url, mistake=name, patience=patience)


@pytest.mark.parametrize("name", MISTAKES)
async def test_promise_goes_red_on_its_mistake(
    name: str, redis: Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    mistake = MISTAKES[name]
    world = world_of(name, mistake.stage, redis_url)
    with pytest.raises(Broken, match=REASONS[name]):
        await PROBES[mistake.breaks](world)
    crashes = [each for each in caplog.records if each.exc_info]
    assert bool(crashes) is (name in CRASHES)


class FromOutside(World):
    """Servers of this process, of which only that is seen which any client sees."""

    @asynccontextmanager
    async def running(self, replica: int = 0, **settings: Any) -> AsyncIterator[Served]:
        async with super().inside(**settings) as server:
            yield server

    @asynccontextmanager
    async def inside(self, **settings: Any) -> AsyncIterator[LabServer]:
        raise Skipped("can be seen only from inside")
        yield

    def room(self, name: str) -> str:
        return f"{name}-{self.turn}"


# It asks Redis for a pattern, which the simulated one does not know.
PATTERN = "subscribe-to-everything"
EARLIER = [each for each in SEEN if MISTAKES[each].stage != "echo" and each != PATTERN]


@pytest.mark.loops("virtual")
@pytest.mark.parametrize("name", EARLIER)
async def test_promises_of_the_stages_before_a_mistake_are_kept(
    name: str, redis_url: str
) -> None:
    stage = MISTAKES[name].stage
    before = [
        (of, check)
        for of, check in checks_up_to(PROMISES, stage)
        if of != stage and check not in LONG
    ]
    world = FromOutside(stage, redis_url, mistake=name, patience=6.0)
    assert broken(await judge(world, before)).keys() <= ALSO.get(name, set())


async def test_promises_before_a_mistake_that_asks_for_a_pattern_are_kept(
    redis: Redis, redis_url: str
) -> None:
    await test_promises_of_the_stages_before_a_mistake_are_kept(PATTERN, redis_url)


async def test_sweep_that_returns_leaves_the_dead_in_the_metrics() -> None:
    interval, count = 0.5, 8

    async def left(*arguments: str) -> float:
        """Return how many connections are left two intervals after all fell silent."""
        async with running_replica(
            *("heartbeat", "--heartbeat-interval", str(interval), *arguments),
            secret=SECRET,
        ) as server:
            port = int(server.url.rpartition(":")[2])
            dead = [await stalled(port) for _ in range(count)]
            try:
                assert await server.metric("labserver_connections") == count
                deadline = time.monotonic() + 2 * interval + 1.0
                while time.monotonic() < deadline:
                    if not (open_ := await server.metric("labserver_connections")):
                        break
                    await asyncio.sleep(0.05)
                return open_
            finally:
                for writer in dead:
                    writer.transport.abort()

    right, wrong = await asyncio.gather(left(), left("--mistake", "sweep-returns"))
    assert right == 0
    assert wrong >= count - 4  # at most one was found in each interval


async def test_mistake_runs_at_later_stages_too(redis: Redis, redis_url: str) -> None:
    for name in ("unguarded-parse", "expiry-once", "encoded-per-member"):
        probe = PROBES[MISTAKES[name].breaks]
        with pytest.raises(Broken, match=REASONS[name]):
            await probe(world_of(name, "resume", redis_url))


async def test_same_probe_on_both_is_shown_side_by_side() -> None:
    twins = await compare("rooms", "encoded-per-member")
    assert not twins.right
    assert twins.wrong.startswith("6 frames were built")
    assert repr(twins).splitlines() == [
        "rooms: kept: Members with the same wire variant get the same frame object.",
        "encoded-per-member: broken: 6 frames were built for 3 messages to 2 members",
    ]
    assert "| `rooms` | `encoded-per-member` |" in twins._repr_markdown_()


async def test_comparison_reaches_the_client_and_redis() -> None:
    twins = await compare("resume", "no-jitter")
    assert not twins.right
    assert "1000 of 1000" in twins.wrong
    with pytest.raises(SettingsError, match="no-jitter is a mistake of stage resume"):
        await compare("broker", "no-jitter")
    with pytest.raises(SettingsError, match="there is no mistake 'x'"):
        await compare("broker", "x")


# The command line


def test_mistakes_are_listed(command: Command) -> None:
    status, out, _ = command("mistakes")
    assert status == 0
    words = " ".join(out.split())
    for mistake in MISTAKES.values():
        assert f"{mistake.name} " in out
        assert mistake.wrong.split()[0] in words


def test_names_of_mistakes_are_whole_in_a_narrow_window(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "table_out", Console(width=50))
    _, out, _ = command("mistakes")
    assert {line.partition(" ")[0] for line in out.splitlines()} >= MISTAKES.keys()


def test_mistakes_are_listed_as_json(command: Command) -> None:
    status, out, _ = command("mistakes", "--json")
    assert status == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == [*MISTAKES]
    for row in rows:
        assert row.keys() == {"name", "stage", "wrong", "seen", "side"}
        assert all(row.values())
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", row["name"])
        assert row["wrong"].endswith(".")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--mistake", "nonsense"], "no mistake 'nonsense'"),
        (["--mistake", "no-epoch", "--stage", "broker"], "which comes after broker"),
        (["--mistake", "no-epoch", "--without", "resume"], "which is left out"),
        (["--mistake", "no-jitter"], "a mistake of the client"),
    ],
    ids=["unknown", "later", "left out", "client"],
)
def test_mistake_that_cannot_be_made_is_refused(
    arguments: list[str], word: str, command: Command
) -> None:
    status, out, err = command("serve", "--port", "0", *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err


def test_every_mistake_breaks_a_probe_of_its_own_stage() -> None:
    assert REASONS.keys() == MISTAKES.keys()
    for mistake in MISTAKES.values():
        names = [probe.__name__ for probe in PROMISES[mistake.stage]]
        assert mistake.breaks in names, mistake.name


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_has_a_mistake(name: str) -> None:
    broken = {mistake.breaks for mistake in MISTAKES.values()}
    # And what is shown by processes: in tests/judge/test_judge.py.
    broken |= {*SEEN.values(), *WRONGS, *FAULTS, *GIVES_UP}
    broken |= {
        *("killed_replica_costs_the_others_nothing", "who_joins_hears_all_that_follows")
    }
    broken.add("who_ended_is_forgotten")  # in tests/judge/test_kept.py
    assert name in broken


def test_there_are_mistakes_at_every_stage() -> None:
    assert {mistake.stage for mistake in MISTAKES.values()} == STAGES.keys()
    assert len(MISTAKES) >= 20
