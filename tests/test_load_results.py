"""What is made of a run: slices, samples, tables, pictures, the report."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "loadtests"))
Histogram = importlib.import_module("_hist").Histogram
Budget = importlib.import_module("_budget").Budget
_timeline = importlib.import_module("_timeline")
Slice, Slicer = _timeline.Slice, _timeline.Slicer

durations = st.lists(st.integers(0, 2**30), max_size=20)


def recorded(values: list[int]) -> Any:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


# Slices


@given(st.lists(durations, max_size=6))
def test_slices_add_up_to_the_whole(pieces: list[list[int]]) -> None:
    latency, slicer, slices = Histogram(), Slicer(), []
    for values in pieces:
        for value in values:
            latency.record(value)
        slices.append(slicer.cut(1, 0, {"s/a": latency}, Histogram(), Histogram()))
        found = slices[-1].latency.get("s/a", Histogram())
        assert found.counts == recorded(values).counts
        assert found.total == sum(values)
    whole = Slice()
    for each in slices:
        whole.add(Slice.from_json(json.loads(json.dumps(each.as_json()))))
    if latency.count:
        assert whole.latency["s/a"].counts == latency.counts
        assert whole.latency["s/a"].total == latency.total


PAGE = """\
# HELP labserver_connections Open connections.
labserver_connections 3.0
labserver_closes_total{code="1000"} 2.0
labserver_closes_total{code="4409"} 1.0
labserver_outbox_drops_total 5.0
labserver_outbox_drops_total_more 5.0
process_cpu_seconds_total 1.5
process_resident_memory_bytes 5e+07
"""


def test_sample_takes_what_it_knows_and_adds_up_labels() -> None:
    assert _timeline.sample(PAGE) == {
        **{"connections": 3, "closes": 3, "drops": 5},
        **{"cpu_seconds": 1.5, "rss_bytes": 5e7},
    }


def test_server_that_was_started_again_counts_from_zero() -> None:
    totals = [{"drops": 5.0}, {"drops": 7.0}, {}, {"drops": 3.0}]
    assert _timeline.grown(totals) == [{}, {"drops": 2}, {}, {"drops": 3}]


def test_table_has_a_row_a_period_and_comes_back_from_the_file(tmp_path: Path) -> None:
    slices = {
        0: Slice(2, 1, {"s/a": recorded([1000]), "s/slow": recorded([9000])}),
        2: Slice(2, 1, {"s/a": recorded([3000])}),
    }
    samples = {
        "ws://one": {
            -1: {"cpu_seconds": 1.0},
            0: _timeline.sample(PAGE),
            1: _timeline.sample(PAGE),
            2: {},
        },
        "ws://two": {0: {"connections": 1.0}, 2: {"connections": 1.0}},
    }
    table = _timeline.rows(
        *(slices, samples, 1.0, {"s/slow"}), [{"at": 1.5, "text": "two is frozen"}]
    )
    assert [row["seconds"] for row in table] == [1, 2, 3]
    assert [row["servers_up"] for row in table] == [2, 1, 1]
    assert [row["delivered"] for row in table] == [1, 0, 1]
    assert [row["connections"] for row in table] == [4, 3, 1]
    assert [row["cpu"] for row in table] == [0.5, 0, None]
    assert [row["fault"] for row in table] == ["", "two is frozen", ""]
    _timeline.write_csv(tmp_path / "t.csv", table)
    back = _timeline.read_csv(tmp_path / "t.csv")
    assert back[2]["connections_2"] == 1
    assert back[1]["p99_ms"] is None
    assert back[1]["fault"] == "two is frozen"


def test_run_without_a_period_has_no_table() -> None:
    assert _timeline.rows({}, {"ws://one": {}}, 1.0) == []


@pytest.mark.parametrize(("seconds", "expected"), [(10, 1), (600, 1), (3600, 6)])
def test_number_of_slices_is_bounded(seconds: int, expected: int) -> None:
    assert _timeline.period(seconds) == expected


# Budgets


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=1, max_size=50))
def test_budget_loses_nothing(messages: list[tuple[int, int, int]]) -> None:
    budget = Budget()
    for parts in messages:
        budget.record(*parts)
    text = json.dumps(budget.as_json())
    shares = Budget.merged([Budget.from_json(json.loads(text))]).shares()
    assert sum(each.count for each in shares) == pytest.approx(len(messages))
    total = sum((each.slip + each.server + each.lag) * each.count for each in shares)
    assert total == pytest.approx(sum(map(sum, messages)))


def test_budget_tells_the_slow_from_the_fast() -> None:
    budget = Budget()
    for _ in range(99):
        budget.record(0, 1000, 0)
    budget.record(0, 1000, 9000)
    assert Budget().shares() == []
    assert [round(each.lag) for each in budget.shares()] == [0, 0, 0, 9000]
