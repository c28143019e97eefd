"""Requirements on runs: what they mean, and how they change a verdict."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labserver.processes.cluster import running_replica
from tests.load.test_loadtests import SECRET, figures, locust, reached, written

_require = importlib.import_module("labserver.load.figures.require")
_record = importlib.import_module("labserver.load.figures.record")
_verdict = importlib.import_module("labserver.load.figures.verdict")
parse, seen = _require.parse, _require.seen


def record(*microseconds: int, lost: int = 0) -> Any:
    found = _record.Record()
    for each in microseconds:
        found.histogram("fanout/subscribers").record(each)
        found.histogram("slow_readers/stalled").record(10 * each)
        found.slip.record(1)
    found.by_design.add("slow_readers/stalled")
    tally = found.tally("fanout/subscribers")
    tally.expected, tally.lost = 1000, lost
    tally.delivered = 1000 - lost
    found.tally("slow_readers/stalled").lost = 0
    return found


def judged(found: Any, *texts: str) -> Any:
    verdict = _verdict.judge(found)
    return _require.held_to(verdict, found, [parse(each) for each in texts])[0]


@pytest.mark.parametrize(
    ("text", "figure", "sign", "bound"),
    [
        ("p99<100ms", "p99", "<", 100_000),
        (" p99.9 <= 1.5 s ", "p99.9", "<=", 1_500_000),
        ("max<900us", "max", "<", 900),
        ("lost=0", "lost", "=", 0),
        ("reordered == 0", "reordered", "=", 0),
        ("delivered>=99.9%", "delivered", ">=", 99.9),
        ("fanout: duplicated < 3", "duplicated", "<", 3),
    ],
)
def test_requirement_means(text: str, figure: str, sign: str, bound: float) -> None:
    found = parse(text)
    assert (found.figure, found.operator, found.bound) == (figure, sign, bound)
    assert found.scenario == ("fanout" if "fanout" in text else "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("p99<100", "needs a unit"),
        ("p99<100m", "needs a unit"),
        ("p0<1ms", "there is no figure 'p0'"),
        ("speed>3", "there is no figure 'speed'"),
        ("lost=0%", "without a unit"),
        ("delivered>99", "is a share"),
        ("delivered>101%", "is a share"),
        ("p99", "is not a requirement such as"),
        ("p99<", "is not a requirement such as"),
        ("p99!=3ms", "is not a requirement such as"),
        ("p99<-3ms", "is not a requirement such as"),
        ("", "is not a requirement such as"),
    ],
)
def test_text_that_is_no_requirement_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_a_sentence(text: str) -> None:
    try:
        parse(text)
    except ValueError as exc:
        assert repr(text) in str(exc)


def test_figures_are_those_of_members_that_are_not_slow_by_design() -> None:
    found = record(1000, 3000, lost=10)
    assert seen(found, "max") == 3000
    assert seen(found, "max", "fanout") == 3000
    assert seen(found, "p99", "idle") is None
    assert seen(found, "delivered") == 99
    assert seen(found, "lost") == 10
    assert seen(found, "lost", "idle") == 0


def test_unmet_requirement_fails_a_valid_run_and_is_named() -> None:
    assert judged(record(1000), "p99<2ms", "lost=0").code == 0
    verdict = judged(record(3000), "p99<2ms", "lost=0")
    assert (verdict.code, verdict.word) == (1, "FAILED")
    assert verdict.reasons == ("p99 is 3 ms, required p99<2ms",)


def test_figure_that_was_not_measured_meets_no_requirement() -> None:
    verdict = judged(record(1000), "idle:p99<2ms")
    assert verdict.code == 1
    assert "p99 is not measured" in str(verdict)


def test_failed_run_names_its_failures_and_the_requirement() -> None:
    verdict = judged(record(3000, lost=1), "p99<2ms")
    assert verdict.code == 1
    assert len(verdict.reasons) == 2


def test_invalid_run_stays_invalid_whatever_is_required() -> None:
    busy = record(3000)
    busy.cpu = 0.95
    assert judged(busy, "p99<2ms").code == 4


def test_latency_that_is_the_generators_own_does_not_fail_the_server() -> None:
    late = record()
    late.histogram("fanout/subscribers").record(3000, 2900)
    assert judged(late).code == 0
    verdict = judged(late, "p99<2ms")
    assert verdict.code == 4
    assert "p99 is 3 ms" in str(verdict) and "97% of it the generator's" in str(verdict)
    assert judged(late, "p99<4ms").code == 0
    # Nobody needs to ask the generator how many messages are lost.
    assert judged(late, "delivered>100%", "p99<2ms").code == 1


def test_users_that_never_joined_are_named_once() -> None:
    found = record(*[1000] * 100)
    found.asked, found.joined = 5, 3
    assert "of 5 users that were asked for, 3 joined" in str(_verdict.judge(found))
    found.absent["fanout/subscribers"] = 2
    said = str(_verdict.judge(found))
    assert "2 user(s) never joined" in said and "asked for" not in said


def test_percentile_of_messages_that_were_not_measured_meets_nothing() -> None:
    found = record(*[1000] * 95)
    found.unmeasured["fanout"] = 5
    assert judged(found, "p90<2ms").code == 0
    verdict = judged(found, "p99<2ms")
    assert verdict.code == 4
    assert "5.0% of the messages not measured" in str(verdict)


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_locust_fails_a_run_that_does_not_meet_a_requirement(
    tmp_path: Path,
) -> None:
    async with running_replica(secret=SECRET) as replica:
        code, out, err = await locust(
            *("--host", replica.url, "-u", "4", "-r", "4", "-t", "40s"),
            *("--results", str(tmp_path), "--lag-limit", "10000", "--no-pictures"),
            *("--require", "lost=0", "--require", "fanout:delivered<50%"),
            *("--scenario", "fanout"),
            until=reached(replica.url, deliveries_total=40),
            LAB_SECRET=SECRET,
        )
    assert code == 1, out + err
    assert "verdict  FAILED: delivered is 100 %, required fanout:delivered<50%" in out
    answers = figures(tmp_path)["requirements"]
    assert [each["met"] for each in answers] == [True, False]
    folder = written(tmp_path)
    assert folder is not None
    assert "after" in (folder / "run.json").read_text().partition("cut_short")[2]


@pytest.mark.long
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("asked", "sentence"),
    [("p99<1", "needs a unit"), ("churn:lost=0", "there is no scenario 'churn'")],
)
async def test_locust_refuses_a_bad_requirement_before_it_runs(
    tmp_path: Path, asked: str, sentence: str
) -> None:
    code, out, err = await locust(
        *("--host", "ws://127.0.0.1:9", "--scenario", "fanout", "--require", asked),
        *("--results", str(tmp_path)),
        LAB_TOKEN="t",
    )
    assert code == 2, out + err
    assert sentence in err.splitlines()[-1]
    assert written(tmp_path) is None
