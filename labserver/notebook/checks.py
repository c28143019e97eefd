"""The verdict on an exercise: your results, the expected ones, and a hint."""

from __future__ import annotations

import copy
import dis
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, overload

from labserver.errors import LabError
from labserver.notebook.exercises import EXERCISES, Exercise
from labserver.notebook.twins import Twins, compare_mistake

Answer = Callable[..., Any]

SHOWN_LIMIT = 3  # failed cases that a verdict shows
WIDTH = 120  # characters of a value in a verdict


class UnknownExercise(LabError):
    """There is no exercise of that name."""


@dataclass(frozen=True)
class Outcome:
    """One case as text: arguments, your result, expected result."""

    given: str
    yours: str
    expected: str

    @property
    def right(self) -> bool:
        return self.yours == self.expected


@dataclass(frozen=True)
class Verdict:
    """The result of :func:`check`. A cell shows it as text.

    Attributes:
        solved: Whether the function has a body at all.
        outcomes: The outcome of each case.
        reason: Why a well-known wrong answer is wrong; empty for other answers.

    """

    exercise: Exercise
    solved: bool
    outcomes: Sequence[Outcome] = ()
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.solved and all(outcome.right for outcome in self.outcomes)

    def __repr__(self) -> str:
        name = self.exercise.name
        if not self.solved:
            return f"{name}: not solved yet"
        right = sum(outcome.right for outcome in self.outcomes)
        state = "right" if self.passed else "not right yet"
        return f"{name}: {state}, {right} of {len(self.outcomes)} cases"

    def _repr_markdown_(self) -> str:
        name, total = self.exercise.name, len(self.outcomes)
        if not self.solved:
            return (
                f"○ **`{name}` is not solved yet.** Nothing below depends on it; "
                "the hint is above, with the solution below it."
            )
        if self.passed:
            return f"✓ **Right**, all {total} cases. {self.exercise.praise}"
        wrong = [outcome for outcome in self.outcomes if not outcome.right]
        lines = [
            f"✗ **Not right yet**: {len(wrong)} of {total} cases differ.",
            "",
            "| given | yours | expected |",
            "|---|---|---|",
        ]
        for each in wrong[:SHOWN_LIMIT]:
            cells = (each.given, each.yours, each.expected)
            lines.append(f"| {' | '.join(_code(cell) for cell in cells)} |")
        if self.reason:
            lines += ["", f"**Why:** {self.reason}"]
        lines += ["", f"**Look at:** {self.exercise.look_at}"]
        return "\n".join(lines)


def check(answer: Answer) -> Verdict:
    """Return the verdict on the answer to the exercise of the same name.

    Raises:
        UnknownExercise: No exercise has the function's name.

    """
    name = getattr(answer, "__name__", repr(answer))
    if name not in EXERCISES:
        raise UnknownExercise(f"there is no exercise {name!r}")
    exercise = EXERCISES[name]
    if is_empty(answer):
        return Verdict(exercise, solved=False)
    yours = results(exercise, answer)
    if any(text.startswith("NotImplementedError") for text in yours):
        return Verdict(exercise, solved=False)
    outcomes = [
        Outcome(
            ", ".join(repr(value) for value in case.given), got, repr(case.expected)
        )
        for case, got in zip(exercise.cases, yours, strict=True)
    ]
    reason = ""
    if not all(outcome.right for outcome in outcomes):
        # A wrong answer is recognised by its results, not by its code.
        reason = next(
            (
                mistake.reason
                for mistake in exercise.mistakes
                if results(exercise, mistake.answer) == yours
            ),
            "",
        )
    return Verdict(exercise, True, outcomes, reason)


def results(exercise: Exercise, answer: Answer) -> list[str]:
    """Return the result of an answer for each case, as text; also exceptions."""
    made = []
    for case in exercise.cases:
        given = copy.deepcopy(case.given)
        try:
            result = answer(*given)
            made.append(repr(exercise.outcome(result, given)))
        except Exception as exc:  # an exception of a learner's code is a result, too
            made.append(f"{type(exc).__name__}: {exc}")
    return made


def is_empty(answer: Answer) -> bool:
    """Return whether a function's body is only ``...``, ``pass`` or a docstring."""
    if not isinstance(answer, FunctionType):
        return False
    steps = list(dis.get_instructions(answer))
    harmless = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    harmless |= {"RETURN_GENERATOR", "POP_TOP", "CALL_INTRINSIC_1", "RERAISE"}  # async
    returned = [step.argval for step in steps if step.opname.endswith("_CONST")]
    return all(step.opname in harmless for step in steps) and returned[-1:] == [None]


def _code(text: str) -> str:
    if len(text) > WIDTH:
        text = text[: WIDTH - 1] + "…"
    return f"`{text}`".replace("|", "\\|")


class Comparison:
    """A prediction and the measured value."""

    def __init__(self, predicted: float | None, happened: float, unit: str) -> None:
        self.predicted = predicted
        self.happened = happened
        self.unit = unit

    def _words(self, mark: str = "") -> str:
        happened = f"It was {mark}{self.happened:g} {self.unit}{mark}."
        if self.predicted is None:
            return f"You made no prediction. {happened}"
        return f"You said {self.predicted:g} {self.unit}. {happened}"

    def __repr__(self) -> str:
        return self._words()

    def _repr_markdown_(self) -> str:
        return self._words("**")


@overload
def compare(predicted: float | None, happened: float, unit: str) -> Comparison: ...


@overload
def compare(predicted: str, happened: str) -> Awaitable[Twins]: ...


def compare(
    predicted: float | str | None, happened: float | str, unit: str = ""
) -> Comparison | Awaitable[Twins]:
    """Return two things side by side.

    With numbers, ``compare(predicted, happened, unit)`` returns a prediction (None if
    there is none) beside the measured value. With names,
    ``await compare(stage, mistake)`` runs the same probe on a stage and on its mistake,
    see :func:`compare_mistake`.
    """
    if isinstance(predicted, str) and isinstance(happened, str):
        return compare_mistake(predicted, happened)
    assert not isinstance(predicted, str) and not isinstance(happened, str)
    return Comparison(predicted, round(happened, 2), unit)
