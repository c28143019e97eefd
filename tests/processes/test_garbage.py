"""Collections of a serving process stay short; Python's settings come back after it."""

from __future__ import annotations

import gc

from labserver.processes.garbage import NEVER, Collections, short_collections
from labserver.server.metrics import SECONDS, Histogram


def full_allowed() -> bool:
    return gc.get_threshold()[2] != NEVER


def test_everything_is_searched_only_while_that_is_expected_to_be_short() -> None:
    pauses = Histogram(SECONDS)
    with short_collections(1000.0, pauses):
        gc.collect(1)
        assert full_allowed()
    with short_collections(1e-6, pauses):
        kept = [[] for _ in range(10_000)]
        gc.collect(1)
        assert not full_allowed()
        kept.clear()
        gc.collect(1)
    assert sum(pauses.counts) >= 3


def test_full_collection_that_was_long_is_not_repeated() -> None:
    before = gc.get_threshold()
    try:
        collections = Collections(1.0, Histogram(SECONDS))
        collections.frozen = 0
        assert full_allowed()
        collections("start", {"generation": 2})
        collections.started -= 2.0
        collections("stop", {"generation": 2})
        assert not full_allowed()
    finally:
        gc.set_threshold(*before)


def test_python_has_its_own_thresholds_back_afterwards() -> None:
    before, callbacks = gc.get_threshold(), list(gc.callbacks)
    with short_collections(0.02, Histogram(SECONDS)):
        assert gc.get_threshold() != before
        assert gc.get_freeze_count()
    assert gc.get_threshold() == before
    assert gc.callbacks == callbacks
    assert not gc.get_freeze_count()


def test_limit_of_0_leaves_the_collector_alone() -> None:
    before = gc.get_threshold()
    with short_collections(0.0, Histogram(SECONDS)):
        assert gc.get_threshold() == before
        assert not gc.get_freeze_count()
