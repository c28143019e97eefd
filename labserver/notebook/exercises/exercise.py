"""What an exercise is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """Arguments, and what should come out."""

    given: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True)
class Mistake:
    """A well-known wrong answer, and why it is wrong."""

    answer: Callable[..., Any]
    reason: str


def _returned(result: Any, given: tuple[Any, ...]) -> Any:
    return result


@dataclass(frozen=True)
class Exercise:
    """A function that the learner writes.

    Args:
        name: Name of the function.
        cases: What it is tried on; together they tell every mistake from the truth.
        mistakes: Wrong answers that are recognised.
        look_at: Where the package does it.
        praise: What a right answer has shown; a sentence.
        outcome: What is compared, from the result and the arguments, which the
            answer may have changed.

    """

    name: str
    cases: Sequence[Case]
    mistakes: Sequence[Mistake]
    look_at: str
    praise: str
    outcome: Callable[[Any, tuple[Any, ...]], Any] = _returned
