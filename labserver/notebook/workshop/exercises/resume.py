"""Chapter 7: wait before coming back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

FIRST, CAP = 0.5, 20.0
Draw = Callable[[], float]


def without_jitter(attempt: int, draw: Draw) -> float:
    return min(CAP, FIRST * 2.0**attempt)


def cap_after_draw(attempt: int, draw: Draw) -> float:
    return min(CAP, draw() * FIRST * 2.0**attempt)


def without_cap(attempt: int, draw: Draw) -> float:
    return draw() * FIRST * 2.0**attempt


def doubled_first(attempt: int, draw: Draw) -> float:
    return draw() * min(CAP, FIRST * 2.0 ** (attempt + 1))


def capped_too_soon(attempt: int, draw: Draw) -> float:
    return draw() * (CAP if attempt >= 5 else FIRST * 2.0**attempt)


def capped_too_late(attempt: int, draw: Draw) -> float:
    return draw() * (CAP if attempt > 6 else FIRST * 2.0**attempt)


def linear(attempt: int, draw: Draw) -> float:
    return draw() * min(CAP, FIRST * (attempt + 1))


def half_jitter(attempt: int, draw: Draw) -> float:
    ceiling = min(CAP, FIRST * 2.0**attempt)
    return ceiling / 2 + draw() * ceiling / 2


class _Draw:
    """A draw that is known beforehand."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"draw() = {self.value}"


def _rounded(result: Any, given: tuple[Any, ...]) -> Any:
    number = isinstance(result, int | float) and not isinstance(result, bool)
    return round(float(result), 6) if number else result


EXERCISE = Exercise(
    name="delay",
    cases=(
        Case((0, _Draw(0.5)), 0.25),
        Case((1, _Draw(0.5)), 0.5),
        Case((3, _Draw(0.25)), 1.0),
        Case((0, _Draw(0.0)), 0.0),
        Case((0, _Draw(1.0)), 0.5),
        Case((5, _Draw(0.5)), 8.0),
        Case((6, _Draw(0.5)), 10.0),
        Case((10, _Draw(0.5)), 10.0),
        Case((10, _Draw(0.25)), 5.0),
    ),
    mistakes=(
        Mistake(
            without_jitter,
            "all clients lost the same server at the same moment, and now all of them "
            "come back at the same moment. Use `draw()`.",
        ),
        Mistake(
            cap_after_draw,
            "the cap comes after the draw: in a long outage nearly every draw is above "
            "it, and most clients come back together, every 20 s.",
        ),
        Mistake(
            without_cap, "there is no cap: attempt 10 may wait more than eight minutes."
        ),
        Mistake(
            doubled_first,
            "the ceiling is doubled before its first use: after the most common "
            "outage, a short one, every client waits twice as long as needed.",
        ),
        Mistake(
            capped_too_soon,
            "the ceiling of attempt 5 is 16 s, still below the cap of 20 s.",
        ),
        Mistake(
            capped_too_late,
            "the ceiling of attempt 6 would be 32 s: it is above the cap of 20 s.",
        ),
        Mistake(
            linear, "the ceiling grows by a fixed step instead of doubling: too slowly."
        ),
        Mistake(
            half_jitter,
            "only half of the wait is random, so clients spread over half the time.",
        ),
    ),
    look_at="`Backoff` in `labserver/client.py`.",
    praise="The first delay is random as well: it decides the height of the peak "
    "after a short outage.",
    outcome=_rounded,
)
