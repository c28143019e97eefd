"""What chaos.witness calls a wrong VALID, and what its proxy does to messages."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.tamper import EVERY, Tamper
from chaos.witness import FAULTS, table, wrong


def line(fault: str, **more: Any) -> dict[str, Any]:
    seen = {"p50": 10.0, "p99": 40.0, "max": 50.0}
    return {
        "fault": fault,
        "verdict": "VALID",
        "injected": None,
        "doubts": [],
        "witness": seen,
        "reported": dict(seen),
        "uncertain": 0.0,
        **more,
    }


QUIET = "nothing, one process"


@pytest.mark.parametrize(
    ("found", "is_wrong"),
    [
        (line(QUIET), False),
        (line(QUIET, reported={"p50": 10.0, "p99": 43.0, "max": 50.0}), False),
        (line(QUIET, reported={"p50": 10.0, "p99": 60.0, "max": 90.0}), True),
        (
            line(
                QUIET,
                reported={"p50": 10.0, "p99": 60.0, "max": 90.0},
                doubts=["p99 in fanout/subscribers is 60 ms (80% of it ...)"],
            ),
            False,
        ),
        (line("messages dropped", injected=3), True),
        (line("messages dropped", injected=0), False),
        (line("messages dropped", injected=3, verdict="FAILED"), False),
        (line("server killed"), True),
        (line("half-open 2 s"), True),
        (line("half-open 2 s", reported={"p50": 1, "p99": 9, "max": 2010}), False),
    ],
)
def test_valid_is_wrong_when_a_loss_or_a_percentile_is_not_seen(
    found: dict[str, Any], is_wrong: bool
) -> None:
    assert bool(wrong(found)) is is_wrong
    assert f"{int(is_wrong)} wrong VALID" in table([{**found, "wrong": wrong(found)}])


@pytest.mark.parametrize(
    ("what", "left"), [("drop", [1, 3]), ("double", [1, 2, 2, 3]), ("swap", [1, 3, 2])]
)
def test_one_message_in_many_is_tampered_with(what: str, left: list[int]) -> None:
    tamper, out, held = Tamper(0, what), b"", b""
    tamper.seen = EVERY - 2
    frames = [b'{"type":"message","seq":%d}' % number for number in (1, 2, 3)]
    for frame in frames:
        sent, held = tamper.tampered(frame, held)
        out += sent
    assert out == b"".join(frames[number - 1] for number in left)
    assert tamper.done == 1


def test_each_fault_says_how_the_generator_runs() -> None:
    assert {kind for kind, *_ in FAULTS.values()} == {"one", "two", "hand"}
