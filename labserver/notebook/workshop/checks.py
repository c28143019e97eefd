"""The verdict on an exercise: your results, the expected ones, and a hint."""

from __future__ import annotations

import contextlib
import copy
import dis
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, overload

from labserver.errors import LabError
from labserver.notebook.workshop.exercises import EXERCISES, Case, Exercise
from labserver.notebook.workshop.explaining import Result, explained, result
from labserver.notebook.workshop.stopping import Hung, stop
from labserver.notebook.workshop.twins import Twins, compare_mistake

Answer = Callable[..., Any]

SHOWN_LIMIT = 3  # failed cases that a verdict shows
WIDTH = 120  # characters of a value in a verdict
PATIENCE = 2.0  # seconds that an answer may take for all cases


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
        reason: Why the answer is wrong, if that is known; else empty.
        stuck: Arguments of the call that did not return; empty if all calls did.
        alive: Whether that call could not even be stopped.

    """

    exercise: Exercise
    solved: bool
    outcomes: Sequence[Outcome] = ()
    reason: str = ""
    stuck: str = ""
    alive: bool = False

    @property
    def passed(self) -> bool:
        right = all(outcome.right for outcome in self.outcomes)
        return self.solved and not self.stuck and right

    def __repr__(self) -> str:
        name = self.exercise.name
        if not self.solved:
            return f"{name}: not solved yet"
        if self.stuck:
            return f"{name}: did not return, and {self._fate()}"
        right = sum(outcome.right for outcome in self.outcomes)
        state = "right" if self.passed else "not right yet"
        return f"{name}: {state}, {right} of {len(self.outcomes)} cases"

    def _fate(self) -> str:
        return "runs on: restart the kernel" if self.alive else "was stopped"

    def _repr_markdown_(self) -> str:
        name, total = self.exercise.name, len(self.outcomes)
        if not self.solved:
            return (
                f"○ **`{name}` is not solved yet.** Nothing below depends on it; "
                "the hint is above, with the solution below it."
            )
        if self.stuck:
            return (
                f"✗ **`{name}` did not return within {PATIENCE:g} s** for "
                f"{_code(self.stuck)}, and {self._fate()}. A loop in it does not end: "
                "look at its condition, and at what changes it."
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
    yours: list[Result] = []
    work = threading.Thread(
        target=_stoppable, args=(exercise, answer, yours), daemon=True
    )
    work.start()
    try:
        work.join(PATIENCE)
    finally:  # also when the learner interrupts the cell
        stopped = not work.is_alive() or stop(work)
    if len(yours) < len(exercise.cases):
        given = _given(exercise.cases[len(yours)])
        return Verdict(exercise, True, stuck=given, alive=not stopped)
    if any(each.text.startswith("NotImplementedError") for each in yours):
        return Verdict(exercise, solved=False)
    outcomes = [
        Outcome(_given(case), got.text, repr(case.expected))
        for case, got in zip(exercise.cases, yours, strict=True)
    ]
    reason = ""
    if not all(outcome.right for outcome in outcomes):
        # A wrong answer is recognised by its results, not by its code.
        known = [results(exercise, mistake.answer) for mistake in exercise.mistakes]
        reason = explained(exercise, yours, known)
    return Verdict(exercise, True, outcomes, reason)


def results(exercise: Exercise, answer: Answer) -> list[Result]:
    """Return the result of an answer for each case; exceptions are results, too."""
    made: list[Result] = []
    _results(exercise, answer, made)
    return made


def _results(exercise: Exercise, answer: Answer, made: list[Result]) -> None:
    """Append the result of each case to a list, which another thread may read."""
    for case in exercise.cases:
        given = copy.deepcopy(case.given)
        try:
            made.append(result(exercise.outcome(answer(*given), given)))
        except Hung:
            raise
        except BaseException as exc:  # what a learner's code raises, also SystemExit
            made.append(Result(f"{type(exc).__name__}: {exc}"))


def _stoppable(exercise: Exercise, answer: Answer, made: list[Result]) -> None:
    with contextlib.suppress(Hung):
        _results(exercise, answer, made)


def _given(case: Case) -> str:
    return ", ".join(repr(value) for value in case.given)


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
    # A count is exact. What was measured once has two digits that mean something.
    exact = happened if isinstance(happened, int) else float(f"{happened:.2g}")
    return Comparison(predicted, exact, unit)
