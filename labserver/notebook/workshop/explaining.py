"""Why a wrong answer to an exercise is wrong, from its results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from types import GeneratorType
from typing import Any

from labserver.notebook.workshop.exercises import Exercise

MISSING = object()  # the value of a call that raised
LONGEST = 1000  # values of a generator that are looked at


class Generated(list[Any]):
    """The values of a generator that an answer returned."""


@dataclass(frozen=True)
class Result:
    """The result of one call: as text, and its value unless it raised."""

    text: str
    value: Any = MISSING


def result(value: Any) -> Result:
    """Return a value as a result; a generator is run to its end."""
    text = repr(value)
    if isinstance(value, GeneratorType):
        value = Generated(islice(value, LONGEST))
    return Result(text, value)


def explained(
    exercise: Exercise, yours: Sequence[Result], known: Sequence[Sequence[Result]]
) -> str:
    """Return why an answer is wrong; empty if that is unknown.

    A known mistake explains an answer with the same results. Then near misses are
    looked for: right values in another form or order, no value at all, and the results
    of a known mistake in all cases where it differs from the right answer. These must
    be at least half of the cases that failed: an answer that is wrong everywhere is
    nobody's.

    Args:
        exercise: The exercise.
        yours: The answer's results, some of them wrong.
        known: The results of each of the exercise's known mistakes.

    """
    mine = [each.text for each in yours]
    for mistake, theirs in zip(exercise.mistakes, known, strict=True):
        if [each.text for each in theirs] == mine:
            return mistake.reason
    right = [result(case.expected) for case in exercise.cases]
    pairs = [pair for pair in zip(yours, right, strict=True) if _differ(*pair)]
    if all(alike(got.value, wanted.value) for got, wanted in pairs):
        return f"the values are right, but {_form(exercise.name, pairs)}."
    if all(got.value is None for got in yours):
        return f"`{exercise.name}` returns nothing: its last line must be a `return`."
    if all(_reordered(got.value, wanted.value) for got, wanted in pairs):
        return "these are the right values, in another order."
    return _partly(exercise, yours, right, known)


def _partly(
    exercise: Exercise,
    yours: Sequence[Result],
    right: Sequence[Result],
    known: Sequence[Sequence[Result]],
) -> str:
    """Return the reason of the mistake that most of the wrong results agree with."""
    failed = sum(_differ(*pair) for pair in zip(yours, right, strict=True))
    best, most = "", failed / 2
    for mistake, theirs in zip(exercise.mistakes, known, strict=True):
        telling = [
            (got, wrong)
            for got, wrong, wanted in zip(yours, theirs, right, strict=True)
            if _differ(wrong, wanted)
        ]
        same = all(
            not _differ(got, wrong) or alike(got.value, wrong.value)
            for got, wrong in telling
        )
        if same and len(telling) >= most and (not best or len(telling) > most):
            best, most = mistake.reason, len(telling)
            others = [pair for pair in telling if _differ(*pair)]
            if others:
                best += f" Besides, {_form(exercise.name, others)}."
    return best


def alike(got: Any, wanted: Any) -> bool:
    """Return whether two values are the same, perhaps in another form."""
    if got is MISSING or got is None or wanted is None:
        return got is wanted
    if isinstance(wanted, list | tuple):
        if isinstance(got, set | frozenset):
            got, wanted = sorted(got, key=repr), sorted(wanted, key=repr)
        return (
            isinstance(got, Collection)
            and not isinstance(got, str | bytes | dict)
            and len(got) == len(wanted)
            and all(alike(*pair) for pair in zip(got, wanted, strict=True))
        )
    if isinstance(wanted, str):
        return got == wanted if isinstance(got, str) else _bytes(got, wanted)
    same = isinstance(got, bool | int | float | dict) and got == wanted
    return same or (isinstance(got, str) and got == str(wanted))


def _bytes(got: Any, wanted: str) -> bool:
    return isinstance(got, bytes) and got == wanted.encode()


def _differ(one: Result, other: Result) -> bool:
    return one.text != other.text


def _reordered(got: Any, wanted: Any) -> bool:
    return (
        isinstance(got, list | tuple)
        and type(got) is type(wanted)
        and sorted(map(repr, got)) == sorted(map(repr, wanted))
    )


def _form(name: str, pairs: Iterable[tuple[Result, Result]]) -> str:
    """Return the first difference in form, as a part of a sentence."""
    found = (_other(got.value, wanted.value) for got, wanted in pairs)
    first = next((each for each in found if each), None)
    if first is None:
        return "they are printed differently"
    got, wanted = first
    words = f"`{name}` returns {_a(got)} where {_a(wanted)} is asked for"
    shown = "" if isinstance(got, Generated) else f": `{got!r}`, not `{wanted!r}`"
    return words + shown


def _other(got: Any, wanted: Any) -> tuple[Any, Any] | None:
    """Return the first two parts of alike values that are of different types."""
    if type(got) is not type(wanted):
        return got, wanted
    if isinstance(wanted, list | tuple):
        parts = (_other(*pair) for pair in zip(got, wanted, strict=True))
        return next((each for each in parts if each), None)
    return None


def _a(value: Any) -> str:
    name = "generator" if isinstance(value, Generated) else type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
