"""An exercise: cases, known mistakes, and hints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """Arguments of a call, and the expected result."""

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
        cases: Inputs and expected results. For every mistake, at least one case fails.
        mistakes: Wrong answers that are recognised.
        look_at: The place in the package that does the same; a phrase.
        praise: What the learner has shown with a right answer; a sentence.
        outcome: Function of the result and the arguments, which the answer may have
            changed; returns the value that is compared.

    """

    name: str
    cases: Sequence[Case]
    mistakes: Sequence[Mistake]
    look_at: str
    praise: str
    outcome: Callable[[Any, tuple[Any, ...]], Any] = _returned
