"""The figures of a run: histograms, the audit of each member, the verdict."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labserver.judge.oracle import Oracle

# These modules are pure. The others import gevent, which patches its process.
_hist = importlib.import_module("labserver.load.figures.histogram")
_audit = importlib.import_module("labserver.load.figures.audit")
_record = importlib.import_module("labserver.load.figures.record")
Figures = importlib.import_module("labserver.load.figures.own").Figures
Histogram, Audit, Tally = _hist.Histogram, _audit.Audit, _audit.Tally
Record, merged = _record.Record, _record.merged
_verdict = importlib.import_module("labserver.load.figures.verdict")
stalled = importlib.import_module("labserver.load.figures.timeline").stalled
judge = _verdict.judge

durations = st.lists(st.integers(0, 2**40), max_size=60)


def recorded(values: list[int]) -> Any:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


# Histograms


@given(st.integers(0, 2**62))
def test_bucket_is_at_most_a_128th_too_wide(value: int) -> None:
    number = _hist.bucket(value)
    assert value <= _hist.upper_edge(number) <= value + value // 128
    assert _hist.bucket(_hist.upper_edge(number)) == number


@given(durations, durations, durations)
def test_merged_histogram_is_the_histogram_of_everything(a, b, c) -> None:
    parts = [recorded(a), recorded(b), recorded(c)]
    whole = Histogram.merged(parts)
    assert whole.as_json() == recorded(a + b + c).as_json()
    assert Histogram.merged(reversed(parts)).as_json() == whole.as_json()


@given(durations)
def test_histogram_comes_back_from_json(values) -> None:
    histogram = recorded(values)
    text = json.dumps(histogram.as_json())
    assert Histogram.from_json(json.loads(text)).as_json() == histogram.as_json()


@given(durations.filter(bool), st.sampled_from([1, 50, 90, 99, 99.9, 100]))
def test_percentile_is_that_of_the_sorted_values(values, percent) -> None:
    exact = sorted(values)[max(1, -int(-len(values) * percent // 100)) - 1]
    assert exact <= recorded(values).percentile(percent) <= exact * (1 + 1 / 128)


def test_empty_histogram_has_no_percentile_and_no_curve() -> None:
    assert Histogram().percentile(99) == 0
    assert Histogram().curve() == []


# Figures of one scenario

happenings = st.lists(
    st.tuples(st.sampled_from("chsg"), st.sampled_from("ab"), st.integers(0, 2**40)),
    max_size=20,
)


def noted(happened: list[tuple[str, str, int]]) -> Any:
    figures = Figures()
    for kind, name, value in happened:
        match kind:
            case "c":
                figures.counts[f"c{name}"] += value
            case "h":
                figures.histogram(f"h{name}").record(value)
            case "s":
                figures.happened(f"s{name}", value)
            case "g":
                figures.measured(f"g{name}", "bytes", value, value)
    return figures


@given(happenings, happenings)
def test_figures_of_two_processes_are_those_of_one(a, b) -> None:
    sent = json.dumps(noted(b).as_json())
    whole = noted(a)
    whole.add(Figures.from_json(json.loads(sent)))
    one = noted(a + b)
    for _, points in one.gauges.values():
        points.sort()
    for _, points in whole.gauges.values():
        points.sort()
    assert whole.told(0) == one.told(0)
    assert whole.lines() == one.lines()


# Completeness

room = "r"
steps = st.one_of(
    st.builds(lambda seq: {"type": "message", "seq": seq}, st.integers(1, 12)),
    st.builds(
        lambda first, more: {"type": "gap", "from": first, "to": first + more},
        st.integers(1, 12),
        st.integers(0, 3),
    ),
    st.builds(
        lambda epoch, seq, back: {
            "type": "joined",
            "epoch": epoch,
            "seq": seq,
            "recovered": back,
        },
        st.sampled_from(["one", "two"]),
        st.integers(0, 12),
        st.booleans(),
    ),
)


@given(st.integers(0, 5), st.lists(steps, max_size=30), st.integers(0, 12))
def test_audit_says_what_the_oracle_says(start, stream, straight) -> None:
    """For a stream in order, two integers say everything that the oracle says."""
    joined = {"type": "joined", "epoch": "one", "seq": start, "recovered": False}
    straight_on = [
        {"type": "message", "seq": start + 1 + each} for each in range(straight)
    ]
    audit, oracle = Audit(room), Oracle()
    for message in [joined, *straight_on, *stream]:
        message = {**message, "room": room}
        oracle.saw(message)
        match message["type"]:
            case "joined":
                audit.joined(message)
            case "gap":
                audit.gap(message)
            case "message":
                audit.message(message["seq"])
    tally, verdict = audit.tally(), oracle.verdict
    assert tally.duplicated == len(verdict.duplicated)
    assert tally.reordered == len(verdict.reordered)
    assert tally.lost == len(verdict.unsignalled)
    assert tally.delivered + tally.duplicated == verdict.received
    assert audit.cursor() == oracle.cursor(room)


def heard(*seqs: int, last: int = 0) -> Any:
    """Return the record of a member that joined an empty room and got ``seqs``."""
    audit = Audit(room)
    audit.joined({"room": room, "epoch": "e", "seq": 0, "recovered": False})
    for seq in seqs:
        audit.message(seq)
    record = Record()
    record.tally("s/members").__iadd__(audit.tally())
    record.ended("s/members", room, audit.last())
    record.published["s"] = last
    record.reached(room, last)
    return record


@pytest.mark.parametrize(
    ("seqs", "figures"),
    [
        ((1, 2, 3, 4), Tally(4, 4)),
        ((1, 2, 4), Tally(4, 3, lost=1)),
        ((1, 2, 3), Tally(4, 3, lost=1)),
        ((), Tally(4, 0, lost=4)),
        ((1, 2, 2, 3, 4), Tally(4, 4, duplicated=1)),
        ((1, 3, 2, 4), Tally(4, 4, reordered=1)),
    ],
    ids=["all", "hole", "tail", "nothing", "twice", "order"],
)
def test_audit_finds(seqs: tuple[int, ...], figures: Any) -> None:
    assert merged([heard(*seqs, last=4)]).tallies["s/members"] == figures


def test_one_loss_in_a_thousand_is_counted_exactly() -> None:
    seqs = [seq for seq in range(1, 5001) if seq % 1000]
    whole = merged([heard(*seqs, last=5000), heard(*range(1, 5001), last=5000)])
    assert whole.tallies["s/members"] == Tally(10_000, 9_995, lost=5)
    assert judge(whole).code == 1
    assert "5 lost in s/members" in str(judge(whole))


def test_tail_loss_is_seen_across_processes() -> None:
    """The publisher's process knows the newest seq, the reader's process its last."""
    parts = [heard(1, 2, 3, last=0), heard(last=9)]
    parts[1].ends.clear()
    texts = [json.dumps(part.as_json()) for part in parts]
    whole = merged(Record.from_json(json.loads(text)) for text in texts)
    assert whole.tallies["s/members"].lost == 6


def test_announced_gap_is_no_silent_loss() -> None:
    audit = Audit(room)
    audit.joined({"room": room, "epoch": "e", "seq": 0, "recovered": False})
    audit.message(1)
    audit.gap({"type": "gap", "room": room, "from": 2, "to": 4, "reason": "slow"})
    audit.message(5)
    assert audit.tally() == Tally(expected=5, delivered=2, told=3)


# Verdicts


def test_complete_run_is_valid() -> None:
    assert judge(merged([heard(1, 2, last=2)])).code == 0


def test_nothing_delivered_is_exit_3() -> None:
    assert judge(Record()).code == 3
    assert "no publisher ran" in str(judge(Record()))
    assert "1 worker(s) sent no figures" in str(judge(Record(), missing=1))
    late = Record(users=Counter(FanoutPublisher=1))
    assert "before publishers began" in str(judge(late))
    stranger = Record(users=Counter(FanoutPublisher=1), asked=10)
    assert "none of 10 users got into a room" in str(judge(stranger))
    assert judge(merged([heard(last=4)])).code == 3


def test_missing_worker_makes_a_run_invalid() -> None:
    verdict = judge(merged([heard(1, 2, last=2)]), missing=1)
    assert (verdict.code, verdict.word) == (4, "INVALID")


def test_busy_generator_makes_a_run_invalid() -> None:
    record = merged([heard(1, 2, last=2)])
    record.cpu = 0.95
    assert judge(record).code == 4


def test_failed_run_says_too_that_its_generator_was_busy() -> None:
    record = merged([heard(1, 2, last=4)])
    record.cpu = 0.95
    verdict = judge(record)
    assert verdict.code == 1
    assert "95% of its core" in str(verdict)


@pytest.mark.parametrize("name", ["slip", "lag", "loop"])
def test_generator_that_dominates_makes_a_run_invalid(name: str) -> None:
    record = merged([heard(1, 2, last=2)])
    record.histogram("s/members").record(150_000)
    getattr(record, name).record(140_000)
    verdict = judge(record)
    assert verdict.code == 4
    assert name in str(verdict)
    assert judge(record, lag_limit=200).code == 0


@pytest.mark.parametrize("name", ["slip", "lag", "loop"])
def test_generator_that_is_a_small_part_of_what_it_measured_is_valid(name: str) -> None:
    record = merged([heard(1, 2, last=2)])
    record.histogram("s/members").record(400_000)
    getattr(record, name).record(140_000)
    assert judge(record).code == 0


def test_slow_reader_by_design_does_not_fail_a_run() -> None:
    record = heard(1, 2, last=9)
    record.by_design.add("s/members")
    record.reached(room, 9)
    whole = merged([record, Record()])
    assert whole.tallies["s/members"] == Tally(9, 2, unread=7)
    assert judge(whole).code == 0


def test_silent_hole_fails_a_run_even_for_a_slow_reader() -> None:
    record = heard(1, 3, last=9)
    record.by_design.add("s/members")
    assert judge(merged([record])).code == 1


@pytest.mark.parametrize(("stalls", "code"), [(0, 1), (2, 0)])
def test_dead_peer_that_is_kept_fails_a_run_of_a_server_never_late(
    stalls: int, code: int
) -> None:
    record = heard(1, 2, last=2)
    record.own("idle").counts["kept too long"] = 1
    sample = {"stalls": 3.0}
    assert stalled({"ws://a": sample}, {"ws://a": {"stalls": 3.0 + stalls}}) == stalls
    assert stalled({"ws://a": sample}, {"ws://a": {"stalls": 2.0}, "ws://b": {}}) == 2
    _verdict.judge_heartbeat(record, stalls)
    verdict = judge(merged([record]))
    assert verdict.code == code
    assert ("beyond two intervals" in str(verdict)) == (code == 1)
