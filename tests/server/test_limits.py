"""The token bucket: its refill, not only its burst."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labserver.server.limits import BucketPerName, TokenBucket


def taken(bucket: TokenBucket, start: float, seconds: float, tries: float) -> int:
    """Return how many of ``tries`` a second succeed; a refusal makes no debt."""
    count = 0
    for number in range(round(seconds * tries)):
        bucket.refill(start + number / tries)
        if bucket.level >= 1.0:
            assert bucket.take(start + number / tries)
            count += 1
    return count


def test_burst_is_what_may_happen_at_once() -> None:
    bucket = TokenBucket(10, 20, now=0.0)
    assert [bucket.take(0.0) for _ in range(21)] == [True] * 20 + [False]


@pytest.mark.parametrize("rate", [1, 10, 250])
def test_refills_at_its_rate_after_the_burst(rate: int) -> None:
    # A bucket that gained one token a second at any rate would pass the test above.
    bucket = TokenBucket(rate, 2 * rate, now=0.0)
    assert taken(bucket, 0.0, 1.0, 10_000) == pytest.approx(3 * rate, abs=1)
    assert taken(bucket, 1.0, 10.0, 2_000) == pytest.approx(10 * rate, abs=1)


def test_refills_below_one_a_second() -> None:
    bucket = TokenBucket(0.5, 1, now=0.0)
    times = [0.0, 1.0, 1.9, 2.0, 3.9, 4.0]
    answers = []
    for now in times:
        bucket.refill(now)
        answers.append(bucket.level >= 1.0 and bucket.take(now))
    assert answers == [True, False, False, True, False, True]


def test_never_holds_more_than_a_burst() -> None:
    bucket = TokenBucket(10, 20, now=0.0)
    bucket.refill(1e6)
    assert bucket.level == 20


def test_what_is_given_back_fills_no_more_than_the_bucket() -> None:
    bucket = TokenBucket(1, 2, now=0.0)
    bucket.give_back(5)
    bucket.charge(3)
    assert not bucket.take(0.0)


def test_name_without_events_for_the_longest_time_is_forgotten() -> None:
    buckets = BucketPerName(1, burst=1, names_limit=2)
    assert [buckets.take(name, 0.0) for name in "aba"] == [True, True, False]
    assert buckets.take("c", 0.0)  # forgets b, whose event was the oldest
    assert [buckets.take(name, 0.0) for name in "ac"] == [False, False]
    assert buckets.take("b", 0.0)


def test_debt_is_paid_back_before_anything_is_allowed() -> None:
    bucket = TokenBucket(10, 20, now=0.0)
    for _ in range(25):
        bucket.take(0.0)
    assert bucket.level == -5
    assert bucket.wait() == pytest.approx(0.6)
    assert not bucket.take(0.5)
    assert bucket.take(0.5 + bucket.wait() + 1e-9)


def test_exhausted_at_a_debt_as_large_as_the_burst() -> None:
    bucket = TokenBucket(10, 20, now=0.0)
    for _ in range(39):
        bucket.take(0.0)
    assert not bucket.exhausted
    bucket.take(0.0)
    assert bucket.exhausted


def test_debt_is_at_most_a_burst_however_much_is_taken() -> None:
    bucket = TokenBucket(5, 10, now=0.0)
    for _ in range(50):
        bucket.take(0.0)
    assert bucket.level == -10
    assert bucket.exhausted
    assert bucket.wait() == pytest.approx(11 / 5)


def test_expensive_work_is_charged_but_exhausts_no_bucket() -> None:
    bucket = TokenBucket(5, 10, now=0.0)
    assert bucket.take(0.0)
    bucket.charge(3.0)
    assert bucket.level == 6
    bucket.charge(1000.0)
    assert bucket.level == -5
    assert not bucket.exhausted
    for _ in range(4):
        bucket.take(0.0)
    bucket.charge(1.0)
    assert bucket.level == -9


@settings(deadline=None, database=None, derandomize=True)
@given(
    st.floats(0.1, 1000),
    st.floats(1, 2000),
    st.lists(st.floats(0, 10), max_size=50),
)
def test_over_any_time_no_more_than_burst_and_rate(
    rate: float, burst: float, steps: list[float]
) -> None:
    bucket = TokenBucket(rate, burst, now=0.0)
    now, count = 0.0, 0
    for step in steps:
        now += step
        count += bucket.take(now)
    assert count <= burst + rate * now + 1e-6
    assert bucket.level <= burst
