"""The cost model of chapter 10: it finds known costs, and predicts from them."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest

from labserver.notebook import hearing
from labserver.notebook.sizing.fitting import (
    RATES,
    Costs,
    Curve,
    fit,
    middle,
    predicted,
    rough,
    weights,
)
from labserver.notebook.sizing.fleet import BUSY, Demand, about, comeback, nodes, plan
from labserver.notebook.sizing.ledger import LOADS, Entry, Idle, Load, bench

COSTS = Costs(
    publish=400e-6,
    heard=Curve(tuple(zip(RATES, (190e-6, 130e-6, 60e-6, 30e-6), strict=True))),
    delivery=8e-6,
    handshake=600e-6,
    ping=100e-6,
    redis_publish=Curve(tuple(zip(RATES, (9e-5, 8e-5, 5e-5, 3e-5), strict=True))),
    redis_copy=5e-6,
    connection=10_000,
    background=0.01,
)


QUIET = Idle(COSTS.handshake, COSTS.ping, COSTS.connection)


def entry(load: Load) -> Entry:
    """Return a run whose CPU time is exactly what ``COSTS`` says."""
    straight = round(load.heard * load.seconds)
    published = round(load.published * load.seconds)
    done = Entry(load, load.seconds, 0.0, straight, published, 0.0, 0.0)
    redis = (
        COSTS.background * done.seconds
        + COSTS.redis_publish.at(done.messages / done.seconds) * done.messages
        + COSTS.redis_copy * done.copies
    )
    return replace(done, replica=predicted(COSTS, done), redis=redis)


def test_fit_finds_the_costs_that_runs_were_made_from() -> None:
    found = fit([entry(load) for load in LOADS], QUIET)
    for name, cost in asdict(COSTS).items():
        if isinstance(cost, float | int):
            assert getattr(found, name) == pytest.approx(cost), name
    for curve, wanted in (
        (found.heard, COSTS.heard),
        (found.redis_publish, COSTS.redis_publish),
    ):
        for rate, cost in wanted.points:
            assert curve.at(rate) == pytest.approx(cost)
    unseen = entry(Load(heard=4000, published=100, members=50))
    assert predicted(found, unseen) == pytest.approx(unseen.replica)


def test_small_times_do_not_shift_the_fit() -> None:
    # A run without messages took 0.1 ms more than it should: the clock's own error.
    runs = [entry(load) for load in LOADS]
    idle = next(each for each in runs if not each.messages)
    runs[runs.index(idle)] = replace(idle, replica=idle.replica + 1e-4)
    found = fit(runs, QUIET)
    assert found.heard.at(300) == pytest.approx(COSTS.heard.at(300), rel=0.05)


def test_cost_is_interpolated_over_the_logarithm_of_the_rate() -> None:
    curve = Curve(((100, 9.0), (10_000, 1.0)))
    assert curve.at(1000) == pytest.approx(5.0)
    assert curve.at(1) == 9.0 and curve.at(1e6) == 1.0 and curve.at(0) == 9.0
    assert sum(weights(RATES, 777)) == pytest.approx(1)


def test_each_cost_of_hearing_is_used_at_the_rate_of_the_fleet() -> None:
    demand = Demand()
    fleet = plan(COSTS, demand)
    left = fleet.replicas * 2 // 3
    heard = demand.publishes * demand.copies(left)
    assert fleet.hears == pytest.approx(heard / left)
    cost = COSTS.heard.at(heard / left)
    assert fleet.cores["receiving"] == pytest.approx(heard * cost)
    # One message at a time costs most, and would ask for several times the replicas.
    slow = replace(COSTS, heard=Curve((COSTS.heard.points[0],)))
    assert plan(slow, demand).replicas > 2 * fleet.replicas


def test_rates_that_were_measured_reach_those_of_both_fleets() -> None:
    for demand in (Demand(), Demand(together=True)):
        rate = plan(COSTS, demand).hears
        assert RATES[0] * 0.8 < rate < RATES[-1] * 1.25


def test_redis_nodes_share_the_rooms() -> None:
    demand = Demand()
    count = nodes(COSTS, demand, copies=50, busy=BUSY)
    rate = demand.publishes / count
    assert rate * (COSTS.redis_publish.at(rate) + 50 * COSTS.redis_copy) <= BUSY
    rate = demand.publishes / (count - 1)
    assert rate * (COSTS.redis_publish.at(rate) + 50 * COSTS.redis_copy) > BUSY


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([61, 66, 74], "about 60 to 75 replicas"),
        ([414, 507, 450], "about 420 to 500 replicas"),
        ([99, 101], "about 100 replicas"),
        ([8, 5], "about 5 to 8 replicas"),
        ([3], "about 3 replicas"),
        ([8432.1], "about 8,400 replicas"),
    ],
)
def test_number_has_no_more_digits_than_it_deserves(values, words) -> None:
    assert about(values, "replicas") == words


def test_rough_number_has_two_digits() -> None:
    assert [rough(each) for each in (0.857, 143.2, 39_857, 0)] == [
        *("0.86", "140", "40,000", "0")
    ]


def test_middle_has_the_median_of_each_cost() -> None:
    others = [
        replace(COSTS, ping=each, heard=Curve(((9, each),))) for each in (1, 3, 2)
    ]
    assert middle(others).ping == 2
    assert middle(others).heard == Curve(((9, 2),))


def test_picture_of_hearing_says_the_rate_of_each_fleet() -> None:
    fleets = {"by room": [plan(COSTS, Demand(together=True))]}
    said = repr(hearing([COSTS, COSTS], [entry(Load(heard=4000))], fleets))
    assert "not fitted: 48 us at 4,000/s" in said
    assert "by room: " in said


async def test_run_counts_what_was_published_heard_and_delivered() -> None:
    async with bench() as new:
        before = await new.replica.metrics()
        done = await new.run(Load(heard=500, published=50, members=3, seconds=0.3))
        after = await new.replica.metrics()
    assert done.straight and done.published and done.redis > 0
    assert done.heard == done.messages == done.straight + done.published
    name = "labserver_deliveries_total"
    assert after[name] - before[name] == done.deliveries


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("zones", [2, 3, 5])
def test_fleet_carries_the_load_without_a_zone(together: bool, zones: int) -> None:
    fleet = plan(COSTS, Demand(together=together), zones)
    left = fleet.replicas // zones * (zones - 1)
    assert fleet.replicas % zones == 0
    assert sum(fleet.cores.values()) <= left * BUSY


def test_room_has_copies_for_each_replica_but_never_more_than_members() -> None:
    demand = Demand(room=100)
    assert demand.copies(1) == 1
    assert 9.9 < demand.copies(10) <= 10
    assert demand.copies(10_000) <= 100
    assert Demand(together=True).copies(10_000) == 1


def test_clients_come_back_no_faster_than_admission_lets_them() -> None:
    found = comeback(1000, 100, admission=True)
    assert found.back[-1] == 1000
    assert found.wasted == 0 and found.refused > 0
    assert 9.5 <= found.most_back < math.inf
    assert sum(found.asked) == 1000 + found.refused


def test_queue_without_admission_works_for_those_who_have_gone() -> None:
    enough = comeback(100, 100, admission=False)
    assert enough.back[-1] == 100 and enough.wasted == 0
    storm = comeback(4000, 100, admission=False)
    assert storm.wasted > 0
    assert storm.most_back > comeback(4000, 100, admission=True).most_back
