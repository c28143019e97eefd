"""Idle connections are measured, and drawn."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import idle
from bench.idle import Cost, measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
COST = Cost("lab", 10, 0.1, 200.0, 6000.0, 0.01, 0.02, 0.01, 0.3, 0.1, 10)


async def test_all_join_hear_a_message_and_are_told_goodbye() -> None:
    cost = await measure("lab", 20, 0.3)
    assert cost.goodbyes == 20
    assert min(cost.accept, cost.message, cost.drain) > 0


def test_picture_and_table_have_the_medians_of_both(tmp_path: Path) -> None:
    picture = pytest.importorskip("bench.idle_picture")
    costs = [
        replace(COST, server=server, connections=count, accept=accept)
        for server in ("lab", "node")
        for count in (10, 20)
        for accept in (0.1, 0.9, 0.2)
    ]
    assert [each.accept for each in picture.medians(costs)] == [0.2] * 4
    picture.draw(costs, 5.0, tmp_path / "idle.png")
    assert (tmp_path / "idle.png").stat().st_size > 10_000
    assert len(idle.table(costs).splitlines()) == 2 + 4


@pytest.mark.parametrize("counts", ["0", "100000000", "1,x"])
def test_number_that_cannot_be_is_refused(counts: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["idle", "--connections", counts])
    assert idle.main() == 2
    assert capsys.readouterr().out.startswith("idle: ")
