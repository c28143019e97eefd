"""The search for the highest rate that holds."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.conftest import Command
from tests.load.test_load_results import ROOT, commands, runner

_limit = importlib.import_module("labserver.load.figures.limit")
_picture = importlib.import_module("labserver.load.pictures.limit")
_plan = importlib.import_module("labserver.load.figures.plan")
Point = _limit.Point


def searched(
    true: float, runs: int = 99, innocent: bool = True, least: float = 1
) -> Any:
    """Search where every rate up to ``true`` holds."""
    asked: list[float] = []

    async def ask(rate: float) -> Any:
        asked.append(rate)
        return Point(rate, rate <= true, innocent or rate <= true, p50=1.0, p99=2.0)

    return asyncio.run(_limit.search(ask, lambda: len(asked) < runs, least))


@given(st.floats(1, 900))
def test_search_ends_beside_the_true_limit(true: float) -> None:
    found = searched(true)
    assert found.complete
    assert found.holds <= true
    if found.fails is None:
        assert found.holds == 900
    else:
        assert true < found.fails <= found.holds * _limit.PRECISE + 0.1
    assert len(found.points) <= 20


@given(st.floats(1, 900), st.integers(0, 12))
def test_search_runs_no_more_than_it_may(true: float, runs: int) -> None:
    found = searched(true, runs)
    assert len(found.points) <= runs
    assert found.holds is None or found.holds <= true
    assert _limit.sentence(found, 10, ["p99<1ms"]).endswith(".")


def test_rate_that_does_not_hold_once_is_asked_again() -> None:
    seen: list[float] = []

    async def ask(rate: float) -> Any:
        seen.append(rate)
        return Point(rate, len(seen) > 1)

    found = asyncio.run(_limit.search(ask, lambda: True, 1, 50, 20))
    assert seen == [20, 20, 50]
    assert (found.holds, found.fails) == (50, None)


@pytest.mark.parametrize(
    ("arguments", "whose", "status", "words"),
    [
        ({"true": 100}, "server", 0, "the server's limit on this machine"),
        ({"true": 100, "innocent": False}, "generator", 4, "not the server's"),
        ({"true": 900}, "none", 0, "use more --users"),
        ({"true": 0}, "server", 1, "does not hold at 1 messages/s"),
        ({"true": 0, "innocent": False}, "generator", 4, "too busy to say"),
        ({"true": 100, "runs": 3}, "server", 0, "before it was known more exactly"),
    ],
)
def test_sentence_says_whose_limit_it_is(
    arguments: dict[str, Any], whose: str, status: int, words: str
) -> None:
    found = searched(**arguments)
    assert (found.whose, found.status) == (whose, status)
    assert words in _limit.sentence(found, 10, ["p99<1ms"])


def test_page_of_a_limit_marks_each_run_and_escapes_what_it_shows(
    tmp_path: Path,
) -> None:
    more = {"server": "serve <it>", "seconds": 3, "machine": "m"}
    found = _limit.as_json(searched(100), 10, ["p99<3ms"], **more)
    found = json.loads(json.dumps(found))
    page = _picture.write_limit(found, tmp_path).read_text()
    assert page.count("holds</span>") == sum(each["holds"] for each in found["points"])
    assert "serve &lt;it&gt;" in page and "serve <it>" not in page
    assert "p99&lt;3ms" in page
    assert (tmp_path / "limit.png").stat().st_size > 10_000


@pytest.mark.parametrize("true", [100, 900])
def test_caption_speaks_of_a_band_only_where_there_is_one(true: float) -> None:
    found = _limit.as_json(searched(true), 10, [], server="", seconds=3, machine="m")
    assert ("grey band" in _picture.curve(found).read) == bool(found["fails_at"])


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_search_on_a_cluster_writes_its_curve(
    tmp_path: Path, loadtests: Command
) -> None:
    code, out, err = await runner(
        *("find-limit", "--users", "4", "--seconds", "3"),
        *("--least", "2", "--most", "4"),
        *("--require", "p99<60s", "--results", str(tmp_path)),
    )
    (name,) = os.listdir(tmp_path)
    folder = tmp_path / name
    found = json.loads((folder / "limit.json").read_text())
    # On a machine that is busy with other tests the generator may be too slow (4).
    assert code == found["status"] and code in (0, 4), out + err
    assert found["sentence"] in out
    assert (folder / "limit.png").exists()
    assert _plan.unfinished(folder) == ""
    (folder / "report.html").unlink()
    code, out, err = loadtests("report", folder)
    assert code == 0, err
    assert "The highest rate that holds" in (folder / "report.html").read_text()


def test_arguments_that_cannot_be_are_refused_in_a_sentence(
    tmp_path: Path, loadtests: Command
) -> None:
    cases = [
        (("--least", "9", "--most", "3"), "--least is more than --most"),
        (("--most", "1000"), "900"),
        (("--require", "p99<5"), "needs a unit"),
        (("--server", "--nonsense"), "--server: No such option"),
        (("--minutes", "0"), "0.2"),
    ]
    for arguments, sentence in cases:
        code, out, err = loadtests(
            "find-limit", *arguments, "--results", tmp_path / "results"
        )
        assert code == 2, err
        assert sentence in err
        assert len(err.splitlines()) == 1
        assert "Traceback" not in out + err
    assert os.listdir(tmp_path) == []


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_interrupted_search_leaves_a_marked_folder_and_no_process(
    tmp_path: Path,
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests", "find-limit", "--seconds", "60"),
        *("--users", "4", "--results", str(tmp_path)),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        while not any(path.name == "fanout.log" for path in tmp_path.rglob("*")):  # noqa: ASYNC240
            assert process.returncode is None
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert b"was interrupted" in err and b"Traceback" not in err
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert not [each for each in commands() if str(tmp_path) in each]
