"""The ledger: which rooms are emptied when histories hold too much."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from labserver.server.ledger import OVERHEAD, Ledger

NOTE = st.tuples(
    st.sampled_from(["red", "green", "blue", "black"]),
    st.sampled_from(["ann", "bob", "eve"]),
    st.integers(1, 70_000),
)


def ledger(limit: int = 1000, ttl: float = 60.0) -> Ledger:
    return Ledger(limit, ttl)


def test_users_who_fill_the_most_lose_rooms_before_others_do() -> None:
    kept = ledger()
    for number in range(10):
        kept.note(f"ann-{number}", "ann", 1000, now=0.0)
        for _ in range(10):
            kept.note(f"eve-{number}", "eve", 60_000, now=0.0)
    for user in ("ann", "bob", "eve"):
        kept.note("lobby", user, 1000, now=0.0)
    cut = kept.cut(kept.size / 2, now=0.0)
    assert len(cut) >= 5
    assert all(room.startswith("eve-") for room in cut)
    assert not kept.cut(kept.size, now=0.0)


def test_room_of_many_users_is_the_largest_of_none() -> None:
    kept = ledger()
    for number in range(50):
        kept.note("lobby", f"user-{number}", 10_000, now=0.0)
    for number in range(8):
        kept.note(f"eve-{number}", "eve", 30_000, now=0.0)
    cut = kept.cut(kept.size * 0.8, now=0.0)
    assert cut and "lobby" not in cut


def test_messages_that_a_history_dropped_are_counted_no_longer() -> None:
    kept = ledger(limit=10)
    for _ in range(1000):
        kept.note("red", "ann", 100, now=0.0)
        assert kept.size <= OVERHEAD + 20 * 100


def test_quiet_room_holds_nothing_after_the_ttl() -> None:
    kept = ledger(ttl=60.0)
    kept.note("red", "ann", 100, now=0.0)
    kept.note("blue", "ann", 100, now=30.0)
    assert kept.cut(kept.size, now=61.0) == []
    assert list(kept.rooms) == ["blue"]
    kept.forget("blue")
    assert (kept.size, kept.sums, kept.users) == (0, {}, {})


@settings(deadline=None, database=None, derandomize=True)
@given(st.lists(NOTE, max_size=60), st.floats(0, 200_000))
def test_after_a_cut_no_more_is_kept_than_may_be(
    notes: list[tuple[str, str, int]], target: float
) -> None:
    kept = ledger(limit=7)
    for room, user, size in notes:
        kept.note(room, user, size, now=0.0)
    cut = kept.cut(target, now=0.0)
    assert kept.size <= target + 1  # but for the rounding of a level
    assert kept.size == sum(kept.sums.values())
    assert not set(cut) & kept.rooms.keys()
    for room in list(kept.rooms):
        kept.forget(room)
    assert (kept.size, kept.sums, kept.users) == (0, {}, {})
