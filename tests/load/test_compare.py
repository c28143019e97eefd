"""Comparisons of repeated runs: what they claim, and what they refuse."""

from __future__ import annotations

import importlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.conftest import Command
from tests.load.test_load_results import saved

_saved = importlib.import_module("labserver.load.figures.saved")
_plan = importlib.import_module("labserver.load.figures.plan")
_compare = importlib.import_module("labserver.load.figures.compare")
_contrast = importlib.import_module("labserver.load.pictures.contrast")
Row, Values = _compare.Row, _compare.Values


def sides(tmp_path: Path, a: list[int], b: list[int], **about: Any) -> tuple[Any, Any]:
    found = []
    for offset, (name, values) in enumerate((("A", a), ("B", b))):
        for number, value in enumerate(values):
            saved(tmp_path / name, value, when=2 * number + offset, **about)
        found.append(_compare.side([tmp_path / name]))
    return found[0], found[1]


def spoil(run: Path, code: int, word: str) -> None:
    path = run / "summary.json"
    found = json.loads(path.read_text())
    found |= {"exit_code": code, "verdict": word, "reasons": ["3 lost in a"]}
    path.write_text(json.dumps(found))


def spread(low: int, high: int) -> list[int]:
    return [low, high, low, high, low]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (spread(1000, 3000), spread(2000, 4000), "within noise"),
        (
            spread(1000, 1100),
            spread(8000, 9000),
            "B is higher, by a factor of 6.8 or more",
        ),
        (
            spread(8000, 9000),
            spread(1000, 1100),
            "B is lower, by a factor of 6.8 or more",
        ),
        ([1000] * 5, [1500] * 5, "B is higher, by 45.5% or more"),
        ([1000] * 5, [1007] * 5, "the sure difference is below 1%"),
        ([1000] * 2, [8000] * 2, "too few repeats to say"),
        ([1000], [8000], "too few repeats to say"),
    ],
)
def test_comparison_says_no_more_than_the_ranges_do(
    tmp_path: Path, a: list[int], b: list[int], verdict: str
) -> None:
    rows = _compare.compare(*sides(tmp_path, a, b)).rows
    found = {row.figure: row.verdict for row in rows}
    assert found["p99 (ms)"] == verdict
    assert found["delivered (%)"] == "within noise"


def test_latency_that_is_the_generators_own_is_no_difference_of_servers(
    tmp_path: Path,
) -> None:
    a, b = sides(tmp_path, [1000] * 4, [8000] * 4)
    for name, latency, runs in (("A", 1000, a), ("B", 8000, b)):
        saved(tmp_path / name, latency, when=20, own=latency)
        runs.append(_compare.side([tmp_path / name])[-1])
    rows = {row.figure: row.verdict for row in _compare.compare(a, b).rows}
    assert rows["p99 (ms)"] == "mostly the generator's own in 2 of 10 runs"
    assert "mostly" not in rows["delivered (%)"]


def test_too_few_repeats_come_with_how_many_are_enough(tmp_path: Path) -> None:
    few = _compare.compare(*sides(tmp_path / "few", [1000] * 2, [8000] * 2))
    assert "5 runs of each side" in few.advice()
    many = _compare.compare(*sides(tmp_path / "many", [1000] * 5, [8000] * 5))
    assert many.advice() == ""


figures = st.lists(
    st.lists(st.integers(1, 10**6).map(float), min_size=8, max_size=8),
    min_size=1,
    max_size=6,
)


@given(figures)
def test_of_all_splits_of_the_same_runs_at_most_one_in_twenty_claims(
    table: list[list[float]],
) -> None:
    """Each split of one server's runs is an A/A comparison."""
    splits = list(combinations(range(8), 4))
    claims = 0
    for chosen in splits:
        rows = [
            Row(
                *("s", str(number)),
                Values(tuple(values[each] for each in chosen)),
                Values(tuple(values[each] for each in range(8) if each not in chosen)),
                0,
            )
            for number, values in enumerate(table)
        ]
        found = _compare.weighed(rows)
        claims += any(row.verdict.startswith("B is") for row in found)
    assert claims <= len(splits) / 20


def test_scenarios_share_the_chance_of_one_table() -> None:
    """Ten scenarios, each sure enough by itself, are not sure enough together."""
    one = [Row("s", "f", Values((1.0,) * 4), Values((2.0,) * 4), 0)]
    assert _compare.weighed(one)[0].enough
    ten = [
        Row(str(n), "f", Values((1.0,) * 4), Values((2.0,) * 4), 0) for n in range(10)
    ]
    assert sum(row.enough for row in _compare.weighed(ten)) == 1


def test_other_machine_load_or_scenario_is_not_compared(tmp_path: Path) -> None:
    a = [_saved.load(saved(tmp_path / "a"))]
    for name, about, sentence in (
        ("b", {"machine": "other"}, "different machines"),
        ("c", {"load": "60 users, 5 s"}, "not run with the same load"),
        ("d", {"variant": "x"}, "no scenario that both have"),
    ):
        b = [_saved.load(saved(tmp_path / name, **about))]
        with pytest.raises(_saved.Unreadable, match=sentence):
            _compare.compare(a, b)


def test_sides_that_did_not_take_turns_are_doubted(tmp_path: Path) -> None:
    a, b = sides(tmp_path, [1000] * 3, [1000] * 3)
    assert _compare.doubts(a, b) == []
    late = [_saved.load(saved(tmp_path / "C", when=n)) for n in (20, 21, 22)]
    assert "after the other" in _compare.doubts(a, late)[0]


def test_run_that_ended_early_and_folder_with_missing_runs_are_doubted(
    tmp_path: Path,
) -> None:
    _plan.begin(tmp_path, ["fanout"] * 4)
    a, b = sides(tmp_path, [1000], [1000], cut_short="after 3 of 8 s")
    said = " ".join(_compare.doubts(a, b))
    assert "ended early, after 3 of 8 s" in said
    assert "2 of 4 planned runs" in said
    _plan.finish(tmp_path)
    assert "planned" not in " ".join(_compare.doubts(a, b))


def test_run_that_was_made_again_is_set_aside_and_told(tmp_path: Path) -> None:
    a, b = sides(tmp_path, [1000] * 3, [1000] * 2)
    assert _compare.doubts(a, b) == []
    _plan.set_aside(a[1].folder)
    left = _compare.side([tmp_path / "A"])
    assert len(left) == 2
    assert "1 run was INVALID and made again" in " ".join(_compare.doubts(left, b))


@pytest.mark.parametrize(("code", "word"), [(1, "FAILED"), (4, "INVALID")])
def test_run_that_is_not_valid_is_not_compared(
    tmp_path: Path, code: int, word: str, loadtests: Command
) -> None:
    a, _ = sides(tmp_path, [1000] * 5, [8000] * 5)
    spoil(a[0].folder, code, word)
    status, out, _ = loadtests("compare", tmp_path / "A", tmp_path / "B")
    assert status == code
    assert f"is {word} (3 lost in a)" in out
    assert "B is higher" not in out


@pytest.mark.timeout(60)
def test_report_of_a_folder_of_ab_shows_both_sides(
    tmp_path: Path, loadtests: Command
) -> None:
    _, b = sides(tmp_path, [1000] * 5, [8000] * 5, server="serve <it>")
    status, out, err = loadtests("report", tmp_path)
    assert status == 0, err
    page = (tmp_path / "report.html").read_text()
    assert "p99 (ms): B is higher" in page
    assert "serve &lt;it&gt;" in page and "serve <it>" not in page
    assert page.count("<figure>") == 9  # one of all runs, and four of a run of each
    assert "<script" not in page
    assert (tmp_path / "a-and-b.png").stat().st_size > 10_000
    spoil(b[1].folder, 1, "FAILED")
    status, _, err = loadtests("report", tmp_path)
    assert status == 0, err
    page = (tmp_path / "report.html").read_text()
    assert "is not compared" in page and "B is higher" not in page
