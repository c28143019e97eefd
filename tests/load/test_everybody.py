"""How long it takes until everybody has a message, and where a member was meanwhile."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labserver.load.figures import everybody
from labserver.load.figures.record import Record
from labserver.load.figures.require import parse, seen
from labserver.load.figures.results import summary
from labserver.load.figures.trust import until_all
from labserver.load.figures.verdict import Verdict
from labserver.load.run.pipeline import own_share
from tests.load.test_loadtests import printed

Everybody: Any = importlib.import_module("labserver.load.figures.everybody").Everybody

# Number of the message, late by so many microseconds.
deliveries = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10**6)), max_size=60)


def took(found: list[tuple[int, int]]) -> Any:
    part = Everybody()
    for number, late in found:
        if number % part.step == 0:
            part.arrived(number * 1000, number, late, 0)
    return part


@given(deliveries, deliveries, st.integers(2, 50))
def test_slowest_delivery_over_processes_is_kept_of_each_message(
    a: list[tuple[int, int]], b: list[tuple[int, int]], limit: int
) -> None:
    before, everybody.LIMIT = everybody.LIMIT, limit
    try:
        whole = took(a)
        whole.add(Everybody.from_json(json.loads(json.dumps(took(b).as_json()))))
    finally:
        everybody.LIMIT = before
    assert len(whole.latest) <= limit
    every = {number for number, _ in a + b if number % whole.step == 0}
    assert {number for number, _, _ in whole.latest.values()} == every
    for number, late, _ in whole.latest.values():
        assert late == max(late for each, late in a + b if each == number)


@pytest.mark.timeout(5)
def test_messages_without_a_number_are_not_kept() -> None:
    """A visitor's have none; they could not be thinned out."""
    slowest = Everybody()
    for due in range(everybody.LIMIT + 1):
        slowest.unmeasured(due, 0)
    assert not slowest.unknown


def test_message_that_one_member_read_at_an_unknown_time_is_left_out_and_doubted() -> (
    None
):
    record = Record()
    slowest = record.slowest("fanout")
    for number in range(1, 11):
        slowest.arrived(number, number, 1000 * number, 0)
    slowest.unmeasured(3, 3)
    assert slowest.histogram().count == 9
    assert until_all(record, "fanout", 99).doubts() == [
        "of only 9 publishes",
        "10.0% of the messages not measured",
    ]


def test_time_until_everybody_has_it_is_in_table_json_and_requirements() -> None:
    record = Record()
    record.tally("fanout/subscribers")
    for number, late in ((1, 5000), (1, 9000), (2, 7000)):
        record.slowest("fanout").arrived(number, number, late, 0)
    assert "until everybody has it" in summary(record, Verdict(0, "VALID", ()))
    assert seen(record, "all.max", "fanout") == 9000
    assert parse("fanout:all.p99<10ms").kind == "duration"
    assert seen(record, "all.p50", "replicas") is None


def test_figure_that_is_the_generators_own_is_marked_in_json() -> None:
    record = Record()
    for number in range(1, 101):
        record.histogram("fanout/subscribers").record(1000, 900)
        record.slowest("fanout").arrived(number, number, 1000, 400)
    assert own_share(record, "p99") == 0.9
    assert own_share(record, "all.p50") == 0.4


WHERE = """
import time
from loadtests import replicas
from labserver.load.dialects import Delivery, Stamp
reader = replicas.ReplicaReader.__new__(replicas.ReplicaReader)
reader.homes = [(100, "replica-2"), (200, None), (300, "replica-1")]
for due in (150, 250, 350):
    for publisher in ("replica-1", "replica-2"):
        print(reader.side(Delivery(1, Stamp(due, due, publisher))))
"""


async def test_late_message_belongs_to_the_replica_that_its_reader_was_on() -> None:
    """What a client got after it had moved was counted as "same replica"."""
    assert (await printed(WHERE)).splitlines() == [
        *("other replica", "same replica"),
        *("cut off", "cut off"),
        *("same replica", "other replica"),
    ]


SAMPLES = """
import random, types
from loadtests import fanout
from labserver.load.dialects import Delivery, Stamp
from labserver.load.figures.everybody import Everybody
from labserver.load.figures.record import Record

heard, names = set(), set()
for number in range(300):
    user = fanout.FanoutSubscriber.__new__(fanout.FanoutSubscriber)
    user.received, user.sampled = 0, random.randrange(100)
    user.everybody = Everybody()
    user.latency = Record().histogram("a")
    user.fire = lambda what, **more: (heard.add(now), names.add(what))
    for now in range(1000):
        late, own = (10_000, 9_000) if now > 900 else (1_000, 0)
        user.socket = types.SimpleNamespace(arrived=late * 1000)
        user.delivered(Delivery(0, Stamp(0, own * 1000, "", now)), 1)
print(len(heard) > 900, sorted(names))
"""


async def test_members_give_locust_different_messages_and_say_whose_delay_it_is() -> (
    None
):
    """All gave it the same hundredth, which missed a stop of a second."""
    assert (await printed(SAMPLES)).strip() == (
        "True ['message (1 of 100)', 'message, late by the generator (1 of 100)']"
    )


AGGREGATED = """
from labserver.load.run import rows
from locust.env import Environment
environment = Environment()
runner = environment.create_local_runner()
rows.separate(environment)
def fire(name, took):
    environment.events.request.fire(
        request_type="WS", name=name, response_time=took, response_length=1,
        exception=None, context={},
    )
fire("fanout: connect", 500)
fire("fanout: message (1 of 100)", 2)
total = environment.stats.total
print(total.num_requests, total.max_response_time, total.avg_response_time)
print(environment.stats.get("fanout: connect", "WS").max_response_time)
"""


async def test_aggregated_row_has_the_times_of_messages_only() -> None:
    assert (await printed(AGGREGATED)).split() == ["2", "2", "2.0", "500"]


SLICED = """
import gevent
from labserver.load.figures.record import Record
from labserver.load.run import sampler
from labserver.load.run.clock import CLOCK

record = Record(began=CLOCK.now())
cut = sampler.Sampler(record, set(), 60)
for number in (0, 0, 1):  # the second timer was a little early
    record.published["fanout"] += 3
    cut.cut(number)
cut.last = 1
cut.end = None
record.published["fanout"] += 4  # after the end of the run
cut.stop()
cut.greenlet.kill()
print([record.slices[each].published for each in sorted(record.slices)])
"""


async def test_slice_that_is_cut_twice_loses_nothing() -> None:
    """A timer that was early replaced a second of the timeline."""
    assert (await printed(SLICED)).strip() == "[6, 7]"


FROZEN = """
from loadtests import fanout  # Locust comes first: it patches the standard library
from labserver.load.figures.record import Record
from labserver.load.run.live import frozen, group, sentence
record = Record()
def hear():
    record.histogram("fanout/subscribers").record(5000)
    record.slowest("fanout").arrived(1, 1, 5000, 0)
    record.tally("fanout/subscribers").delivered += 1
    record.tally("fanout/subscribers").expected += 1
    record.slip.record(1)
    record.published["fanout"] += 1
hear()
copy = frozen(record)
before = copy.as_json()
for _ in range(3):
    hear()
print(copy.as_json() == before, group(copy, "fanout/subscribers")["delivered"])
print(sentence(copy, ["fine"]))
"""


async def test_looking_at_a_run_takes_a_copy_that_does_not_change() -> None:
    first, second = (await printed(FROZEN)).splitlines()
    assert first == "True 1 of 1"
    assert second.startswith("fine · 1 of 1 delivered · p50 5.00 ms (of only 1")
