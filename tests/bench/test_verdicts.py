"""The verdicts on other servers: how they are come to, and their table."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.verdicts.__main__ import RIVALS, table
from labserver.judge import PROBES
from labserver.judge.outside import commanded
from labserver.judge.run import Finding, Verdict, judge


def finding(stage: str, outcome: str, seen: str = "") -> Finding:
    return Finding(stage, "a_check", "What holds.", outcome, seen)


def test_table_has_a_cell_for_each_promise_and_says_what_was_seen() -> None:
    lab = Verdict([finding("echo", "kept"), finding("auth", "kept")])
    rival = Verdict(
        [
            *(finding("echo", "kept"), finding("echo", "skipped")),
            finding("echo", "broken", "1 | 2 came back"),
        ]
    )
    lines = table({"lab": lab, "broadcast": rival}).splitlines()
    assert lines[0] == "| promise | labserver | `websockets.broadcast()` |"
    assert lines[2].endswith("| kept | broken (1 of 2) |")
    assert lines[3].endswith("| kept | not claimed |")
    assert lines[-1] == "- `websockets.broadcast()`, 1: 1 \\| 2 came back"


# A check that each keeps, and one that it breaks.
KNOWN = {
    "broadcast": ("who_left_hears_nothing", "what_is_wrong_is_answered"),
    "fastapi": ("strangers_are_refused_with_http", "what_is_wrong_is_answered"),
    "article": ("who_left_hears_nothing", "what_is_wrong_is_answered"),
}


@pytest.mark.parametrize("name", KNOWN)
async def test_rival_keeps_and_breaks_what_is_known_of_it(name: str) -> None:
    rival = RIVALS[name]
    if why := rival.missing():
        pytest.skip(f"NOT TESTED: {why}")
    kept, broken = (PROBES[each] for each in KNOWN[name])
    async with commanded(rival.command(), "rooms", patience=4.0) as world:
        verdict = await judge(world, [("rooms", kept), ("echo", broken)])
    assert [each.outcome for each in verdict.findings] == ["kept", "broken"]


def test_unknown_rival_is_refused_in_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.verdicts", "--rivals", "nobody"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert "'nobody' is none of lab, article, broadcast, fastapi" in done.stderr
