"""Clients are judged: the lab's own is right, and each mistake of one is seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from labserver.judge.clients import CHECKS, clients
from labserver.judge.outcomes import CannotJudge
from labserver.judge.run import judge
from labserver.mistakes import MISTAKES
from labserver.stages import LAST
from tests.support import returning_client

pytestmark = pytest.mark.long

RETURNING = [sys.executable, returning_client.__file__]
BY_NAME = {check.__name__: check for check in CHECKS}
WRONG = {
    "forgets-cursors": "it_comes_back_with_its_cursor",
    "no-jitter": "first_delays_are_spread",
    "doubled-before-use": "first_delay_is_short",
    "cap-after-jitter": "later_delays_grow_and_are_spread_below_a_cap",
    "returns-anyway": "it_stays_away_when_told",
}


async def outcome(argv: list[str], *names: str) -> dict[str, str]:
    checks = [(LAST, BY_NAME[name]) for name in names or BY_NAME]
    async with clients(argv, patience=10.0) as world:
        verdict = await judge(world, checks)
    return {each.check: each.seen for each in verdict.findings if each.seen}


@pytest.mark.timeout(120)
async def test_our_own_client_keeps_every_promise() -> None:
    assert await outcome(RETURNING) == {}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", WRONG)
async def test_mistake_of_a_client_is_seen(name: str) -> None:
    for _ in range(3):  # a doubled delay may be short by chance, once in a thousand
        if seen := await outcome([*RETURNING, name], WRONG[name]):
            break
    assert list(seen) == [WRONG[name]]


async def test_client_that_ignores_what_it_is_told_does_not_wait() -> None:
    seen = await outcome([*RETURNING, "returns-anyway"], "it_waits_as_long_as_told")
    assert "after it was told to wait 2 s" in seen["it_waits_as_long_as_told"]


def test_every_mistake_of_a_client_is_judged() -> None:
    assert {name for name, each in MISTAKES.items() if not each.extend} <= WRONG.keys()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["no-such-command"], "there is no command 'no-such-command'"),
        ([sys.executable, "-c", "print('oh')"], "status 0; its last words: oh"),
        (["sleep", "1000"], "0 of 3 clients joined the room"),
    ],
)
async def test_client_that_cannot_be_judged_is_said_in_a_sentence(
    argv: list[str], words: str
) -> None:
    async with clients(argv, start_timeout=2.0) as world:
        with pytest.raises(CannotJudge, match=words):
            await judge(world, [(LAST, CHECKS[0])])
        assert not world.crowds


def test_unknown_check_of_a_client_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labserver", "judge", "--client"]
        + ["--only", "nonsense", "--", "true"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert "there is no check 'nonsense': it-comes-back-with-its-cursor" in done.stderr
