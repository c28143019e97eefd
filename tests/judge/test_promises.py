"""Each promise holds at its own stage and at every later stage."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis import Redis

from labserver.judge import PROBES, PROMISES, Probe, Skipped, World
from labserver.judge.heartbeat import GRACE, SLOW_INTERVAL, who_reads_slowly_stays
from labserver.judge.resume import replay_races_with_live_messages
from labserver.judge.run import judge
from labserver.judge.world import until
from labserver.stages import STAGES

pytestmark = pytest.mark.loops("uvloop", "asyncio")
LAST = [*STAGES][-1]
# Probes that only wait for time.
WAITS = {
    PROBES[name]
    for name in (
        *("new_token_is_for_the_same_user", "expired_token_ends_its_connection"),
        *("who_vanished_is_ended", "who_reads_slowly_stays", "pings_are_no_burst"),
        *("dead_peers_are_gone", "pings_are_spread", "who_reads_no_more_is_ended"),
        *("who_is_stuck_is_ended", "no_loss_is_silent"),
    )
}


def from_stage(name: str) -> list[str]:
    """Return the names of a stage and of all later stages."""
    return [each for each in STAGES if STAGES[each].number >= STAGES[name].number]


def test_every_stage_has_a_promise_that_is_probed() -> None:
    assert [*PROMISES] == [*STAGES]
    assert all(PROMISES.values())


def asked(later: bool) -> list[Any]:
    """Return the probes and stages of a test: later stages, or a promise's own one.

    The last stage serves, so it is asked on real sockets, too, unless time is all that
    a probe needs.
    """
    return [
        pytest.param(probe, stage, id=f"{probe.__name__}-{stage}")
        for name, probes in PROMISES.items()
        for probe in probes
        for stage in from_stage(name)
        if later is (stage != name and (stage != LAST or probe in WAITS))
    ]


@pytest.mark.parametrize(("probe", "stage"), asked(later=False))
async def test_promise_is_kept(
    probe: Probe, stage: str, redis: Redis | None, redis_url: str
) -> None:
    try:
        await probe(World(stage, redis_url))
    except Skipped as exc:
        pytest.skip(str(exc))  # test_judge.py has the world that shows it


@pytest.mark.loops("virtual")
@pytest.mark.parametrize(("probe", "stage"), asked(later=True))
async def test_promise_is_kept_by_later_stages(
    probe: Probe, stage: str, redis_url: str
) -> None:
    await test_promise_is_kept(probe, stage, None, redis_url)


@pytest.mark.parametrize("probe", PROMISES["resume"], ids=lambda probe: probe.__name__)
async def test_resume_keeps_its_promise_without_redis(probe: Probe) -> None:
    await probe(World("resume", without=("broker",)))


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_live_messages_never_overtake_a_replay(
    without: tuple[str, ...], redis: Redis, redis_url: str
) -> None:
    await replay_races_with_live_messages(World("resume", redis_url, without))


@pytest.mark.loops("virtual")
async def test_check_that_runs_again_finds_no_trace_of_its_first_run(
    redis_url: str,
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


@pytest.mark.loops("virtual")
async def test_slow_reader_goes_on_reading_while_the_publisher_takes_its_time() -> None:
    world = LatePublisher("heartbeat", patience=10.0)
    verdict = await judge(world, [("heartbeat", who_reads_slowly_stays)])
    assert [each.seen for each in verdict.findings] == [""]
