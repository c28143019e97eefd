"""Each promise holds at its own stage and at every later stage."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis import Redis

from labserver.judge import PROMISES, Probe, Skipped, World
from labserver.judge.heartbeat import GRACE, SLOW_INTERVAL, who_reads_slowly_stays
from labserver.judge.resume import replay_races_with_live_messages
from labserver.judge.run import judge
from labserver.judge.world import until
from labserver.stages import STAGES

pytestmark = pytest.mark.loops("uvloop", "asyncio")
LAST = [*STAGES][-1]


def from_stage(name: str) -> list[str]:
    """Return the names of a stage and of all later stages."""
    return [each for each in STAGES if STAGES[each].number >= STAGES[name].number]


def test_every_stage_has_a_promise_that_is_probed() -> None:
    assert [*PROMISES] == [*STAGES]
    assert all(PROMISES.values())


@pytest.mark.parametrize(
    ("probe", "stage"),
    [
        pytest.param(probe, stage, id=f"{probe.__name__}-{stage}")
        for name, probes in PROMISES.items()
        for probe in probes
        for stage in dict.fromkeys((name, LAST))
    ],
)
async def test_promise_is_kept(
    probe: Probe, stage: str, redis: Redis, redis_url: str
) -> None:
    try:
        await probe(World(stage, redis_url))
    except Skipped as exc:
        pytest.skip(str(exc))  # test_judge.py has the world that shows it


# Between a promise's own stage and the last one, parts are added that both loops have.
@pytest.mark.loops("uvloop")
@pytest.mark.parametrize(
    ("probe", "stage"),
    [
        pytest.param(probe, stage, id=f"{probe.__name__}-{stage}")
        for name, probes in PROMISES.items()
        for probe in probes
        for stage in from_stage(name)[1:]
        if stage != LAST
    ],
)
async def test_promise_is_kept_by_the_stages_between(
    probe: Probe, stage: str, redis: Redis, redis_url: str
) -> None:
    await test_promise_is_kept(probe, stage, redis, redis_url)


@pytest.mark.parametrize("probe", PROMISES["resume"], ids=lambda probe: probe.__name__)
async def test_resume_keeps_its_promise_without_redis(probe: Probe) -> None:
    await probe(World("resume", without=("broker",)))


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_live_messages_never_overtake_a_replay(
    without: tuple[str, ...], redis: Redis, redis_url: str
) -> None:
    await replay_races_with_live_messages(World("resume", redis_url, without))


async def test_check_that_runs_again_finds_no_trace_of_its_first_run(
    redis: Redis, redis_url: str
) -> None:
    checks = [("resume", check) for check in PROMISES["resume"]]
    verdict = await judge(World("resume", redis_url), [*checks, *checks])
    broken = {each.check: each.seen for each in verdict.findings if each.seen}
    assert broken == {}


async def test_wait_ends_in_time_though_its_condition_swallows_that() -> None:
    swallowed = False

    async def never() -> bool:
        nonlocal swallowed
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallowed:
                raise
            swallowed = True
        return False

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await until(never)


class LatePublisher(World):
    """A world whose publisher is not done before the slow reader's time is over."""

    async def fill(self, *arguments: Any) -> list[int]:
        ends = time.monotonic() + 4 * SLOW_INTERVAL + GRACE + 2.5 * SLOW_INTERVAL
        seqs = await super().fill(*arguments)
        await asyncio.sleep(ends - time.monotonic())
        return seqs


@pytest.mark.loops("uvloop")
async def test_slow_reader_goes_on_reading_while_the_publisher_takes_its_time() -> None:
    world = LatePublisher("heartbeat", patience=10.0)
    verdict = await judge(world, [("heartbeat", who_reads_slowly_stays)])
    assert [each.seen for each in verdict.findings] == [""]
