"""The verdicts on other servers: how they are come to, and their table."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import psutil
import pytest

from bench.verdicts.__main__ import NUMBERED, RIVALS, divided, table
from labserver.judge import PROBES
from labserver.judge.outside import commanded
from labserver.judge.run import Finding, Verdict, judge

pytestmark = pytest.mark.long


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
    "socketio": ("everyone_hears_it_once", "what_is_wrong_is_answered"),
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


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.verdicts", *words],
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["--rivals", "nobody"],
            "'nobody' is none of lab, article, broadcast, fastapi",
        ),
        (["--rivals", ","], "--rivals names none of lab, article"),
        (["--stage", "ten"], "'ten' is none of echo, auth, rooms"),
        (["--results", "/dev/null/here"], "/dev/null/here cannot be written"),
        (["--speed", "3"], "unrecognized arguments: --speed 3"),
    ],
)
def test_wrong_argument_is_refused_in_a_sentence(words: list[str], why: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_names_rivals_and_stages() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "socketio" in done.stdout
    assert "--stage STAGE" in done.stdout


def test_table_stands_below_the_day_and_the_machine(tmp_path) -> None:
    done = run(
        "--rivals", "broadcast,broadcast", "--stage", "echo", "--results", tmp_path
    )
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    first, _, head, *_ = (folder / "table.md").read_text().splitlines()
    assert re.match(r"Measured on \d{4}-\d\d-\d\d: \d+ cores.*, Python 3", first)
    assert head == "| promise | `websockets.broadcast()` |"
    judged = json.loads((folder / "verdicts.json").read_text())["broadcast"]
    assert {each["stage"] for each in judged} == {"echo"}


def test_numbers_of_an_adapter_are_not_judged() -> None:
    for name, left in (("lab", set()), ("socketio", set(NUMBERED))):
        judged, left_out = divided(RIVALS[name], "broker")
        assert {each.check for each in left_out} == left
        assert {each.outcome for each in left_out} <= {"skipped"}
        asked = {check.__name__ for _, check in judged}
        assert asked.isdisjoint(left)
        assert asked | left >= set(NUMBERED)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_all_that_was_started(how: signal.Signals, tmp_path) -> None:
    words = ["--rivals", "broadcast", "--results", str(tmp_path)]
    running = subprocess.Popen(
        [sys.executable, "-m", "bench.verdicts", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        while "✓" not in running.stdout.readline():
            assert running.poll() is None
        started = psutil.Process(running.pid).children(recursive=True)
        assert started
        running.send_signal(how)
        _, said = running.communicate(timeout=15)
    finally:
        running.kill()
    assert running.returncode == 130
    assert said == "stopped: all that was started has ended\n"
    assert not any(each.is_running() for each in started)
