"""The cost model of chapter 10: it finds known costs, and predicts from them."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest

from labserver.notebook.ledger import LOADS, Costs, Entry, fit, predicted
from labserver.notebook.sizing import BUSY, Demand, comeback, plan

COSTS = Costs(
    publish=400e-6,
    heard=150e-6,
    delivery=8e-6,
    handshake=600e-6,
    ping=100e-6,
    redis_publish=100e-6,
    redis_copy=5e-6,
    connection=10_000,
    background=0.01,
)


def entry(members: int, count: int, copies: int = 1, listeners: int = 0) -> Entry:
    """Return a run whose CPU time is exactly what ``COSTS`` says."""
    here = (copies - 1) * (COSTS.heard + COSTS.delivery)
    first = COSTS.publish + here
    second = COSTS.heard + members * COSTS.delivery
    redis = COSTS.redis_publish + (copies + listeners) * COSTS.redis_copy
    own = COSTS.background * 0.5
    used = (own + count * first, own + count * second, own + count * redis)
    return Entry(members, 0.5, count, copies, listeners, *used)


def test_fit_finds_the_costs_that_runs_were_made_from() -> None:
    runs = [entry(*load) for load in LOADS]
    found = fit(runs, (COSTS.handshake, COSTS.ping, COSTS.connection))
    assert astuple(found) == pytest.approx(astuple(COSTS))
    unseen = entry(50, 200, 2)
    assert predicted(found, unseen) == pytest.approx(unseen.first + unseen.second)


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
