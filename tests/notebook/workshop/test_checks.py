"""Exercises: wrong answers fail, near misses are explained, an endless one is stopped.

An answer that breaks the text of an exercise at a boundary must not pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import permutations
from math import ceil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labserver.notebook import check, compare
from labserver.notebook.workshop import checks as checks_module
from labserver.notebook.workshop.exercises import EXERCISES
from tests.support.chapters import CHAPTERS, FOLDER, build

ROOT = FOLDER.parent


def named(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        return answer(*given)

    call.__name__ = name
    return call


# What breaks the text


def later_than_patience(peers: Any, now: float, patience: float) -> list[str]:
    return [
        name
        for name, peer in peers.items()
        if peer["pinged"] > peer["seen"] and now - peer["pinged"] > patience
    ]


def same_moment_is_silence(peers: Any, now: float, patience: float) -> list[str]:
    return [
        name
        for name, peer in peers.items()
        if peer["pinged"] >= peer["seen"] and now - peer["pinged"] >= patience
    ]


def below_the_limit(waiting: Any, message: Any, limit: int) -> Any:
    waiting, lost = [*waiting, message], []
    while sum(size for _, size in waiting) >= limit:
        lost.append(waiting.pop(0)[0])
    return waiting, (lost[0], lost[-1]) if lost else None


def never_the_newest(waiting: Any, message: Any, limit: int) -> Any:
    waiting, lost = [*waiting, message], []
    while sum(size for _, size in waiting) > limit and len(waiting) > 1:
        lost.append(waiting.pop(0)[0])
    return waiting, (lost[0], lost[-1]) if lost else None


def one_ahead(last_id: str, epoch: str, oldest: int, newest: int) -> Any:
    named, _, seq = last_id.rpartition(":")
    if named != epoch or not oldest - 1 <= int(seq) <= newest + 1:
        return None
    return list(range(int(seq) + 1, newest + 1))


def from_eight_tenths(
    expected: int, delivered: int, p99: float, own: float, cpu: float
) -> str:
    if not delivered:
        return "nothing"
    if delivered != expected:
        return "failed"
    return "invalid" if cpu >= 0.8 or own > p99 / 2 else "valid"


def from_half(expected: int, delivered: int, p99: float, own: float, cpu: float) -> str:
    if not delivered:
        return "nothing"
    if delivered != expected:
        return "failed"
    return "invalid" if cpu > 0.8 or own >= p99 / 2 else "valid"


def capped_too_soon(attempt: int, draw: Callable[[], float]) -> float:
    return draw() * (20.0 if attempt >= 5 else 0.5 * 2**attempt)


def capped_too_late(attempt: int, draw: Callable[[], float]) -> float:
    return draw() * (20.0 if attempt > 6 else 0.5 * 2**attempt)


def one_at_least(publishes: float, members: int, cost: float, zones: int) -> int:
    needed = int(publishes * members * cost / 0.5) + 1
    return ceil(needed / (zones - 1)) * zones


def empty_is_none(origin: str | None, host: str) -> bool:
    return not origin or origin.partition("://")[2] == host


def as_bytes(room: str, text: Any) -> list[bytes]:
    join = {"type": "join", "room": room}
    publish = {"type": "publish", "room": room, "payload": text}
    return [json.dumps(join).encode(), json.dumps(publish).encode()]


def adjacent_is_a_hole(delivered: int, arriving: list[int]) -> list[tuple[int, int]]:
    found = []
    for seq in arriving:
        if seq >= delivered + 1:
            found.append((delivered + 1, seq - 1))
        delivered = max(delivered, seq)
    return found


def below_twelve(members: Any) -> Any:
    found: dict[Any, list[str]] = {}
    for name, (subprotocol, agreed) in members.items():
        window = 12 if agreed > 12 else 9 if agreed else 0
        found.setdefault((subprotocol or "lab.json", window), []).append(name)
    return found


BOUNDARIES = [
    ("dead", later_than_patience, "at least"),
    ("dead", same_moment_is_silence, "same moment"),
    ("drop_oldest", below_the_limit, "exactly `limit`"),
    ("drop_oldest", never_the_newest, "larger than the limit"),
    ("to_replay", one_ahead, "not reached"),
    ("judge", from_eight_tenths, "more than"),
    ("judge", from_half, "more than"),
    ("delay", capped_too_soon, "attempt 5"),
    ("delay", capped_too_late, "attempt 6"),
    ("replicas", one_at_least, "exactly half"),
    ("may_connect", empty_is_none, "empty"),
    ("first_words", as_bytes, "bytes"),
    ("holes", adjacent_is_a_hole, "next seq"),
    ("sharing", below_twelve, "exactly 12"),
]


@pytest.mark.parametrize(
    ("name", "answer", "words"), BOUNDARIES, ids=[b[1].__name__ for b in BOUNDARIES]
)
def test_answer_that_breaks_the_text_at_a_boundary_fails_and_is_explained(
    name: str, answer: Callable[..., Any], words: str
) -> None:
    verdict = check(named(name, answer))
    assert not verdict.passed
    assert words in verdict.reason


def test_order_of_dead_peers_is_free_because_the_text_names_none() -> None:
    def dead(peers: Any, now: float, patience: float) -> list[str]:
        names = [
            name
            for name, peer in peers.items()
            if peer["pinged"] > peer["seen"] and now - peer["pinged"] >= patience
        ]
        return names[::-1]

    assert check(dead).passed


# Near misses


@cache
def solution(name: str) -> Callable[..., Any]:
    """Return the solution in the chapter of an exercise."""
    for chapter in CHAPTERS:
        text, *_ = build.solutions(build.read(FOLDER / "source" / f"{chapter}.py"))
        if f"def {name}(" in text:
            space: dict[str, Any] = {}
            exec(text, space)
            found: Callable[..., Any] = space[name]
            return found
    raise LookupError(name)


def yielded(*given: Any) -> Iterator[Any]:
    yield from solution("holes")(*given)


NEAR = [
    (
        "holes",
        lambda *given: [list(each) for each in solution("holes")(*given)],
        "returns a list where a tuple is asked for",
    ),
    (
        "drop_oldest",
        lambda *given: list(solution("drop_oldest")(*given)),
        "returns a list where a tuple is asked for",
    ),
    (
        "first_words",
        lambda *given: tuple(solution("first_words")(*given)),
        "returns a tuple where a list is asked for",
    ),
    (
        "to_replay",
        lambda *given: (
            None if (seqs := solution("to_replay")(*given)) is None else set(seqs)
        ),
        "returns a set where a list is asked for",
    ),
    (
        "to_replay",
        lambda *given: (
            None
            if (seqs := solution("to_replay")(*given)) is None
            else range(seqs[0], seqs[-1] + 1)
            if seqs
            else range(0)
        ),
        "returns a range where a list is asked for",
    ),
    ("holes", yielded, "returns a generator where a list is asked for"),
    (
        "may_connect",
        lambda *given: int(solution("may_connect")(*given)),
        "returns an int where a bool is asked for",
    ),
    (
        "replicas",
        lambda *given: float(solution("replicas")(*given)),
        "returns a float where an int is asked for",
    ),
    (
        "replicas",
        lambda *given: str(solution("replicas")(*given)),
        "returns a str where an int is asked for",
    ),
    (
        "to_replay",
        lambda *given: (
            None if (s := solution("to_replay")(*given)) is None else s[::-1]
        ),
        "in another order",
    ),
    ("replicas", lambda *given: print(end=""), "returns nothing"),
    ("dead", lambda *given: None, "returns nothing"),
]


@pytest.mark.parametrize(("name", "answer", "words"), NEAR, ids=[n[2] for n in NEAR])
def test_near_miss_is_explained(
    name: str, answer: Callable[..., Any], words: str
) -> None:
    solution(name)  # to read the chapter takes longer than an answer may
    verdict = check(named(name, answer))
    assert not verdict.passed
    assert words in verdict.reason
    assert f"**Why:** {verdict.reason}" in verdict._repr_markdown_()


@pytest.mark.parametrize("order", [*permutations(("nothing", "failed", "invalid"))])
def test_every_order_of_tests_of_a_run_is_right_or_explained(order) -> None:
    def judge(expected: int, delivered: int, p99: float, own: float, cpu: float) -> str:
        applies = {
            "nothing": not delivered,
            "failed": delivered != expected,
            "invalid": cpu > 0.8 or own > p99 / 2,
        }
        return next((word for word in order if applies[word]), "valid")

    verdict = check(judge)
    assert verdict.passed is (order == ("nothing", "failed", "invalid"))
    assert verdict.passed or verdict.reason


def test_known_mistake_is_explained_beside_another_mistake() -> None:
    # The gap claims one message too many, and a gap of one message is no pair.
    def drop_oldest(waiting: Any, message: Any, limit: int) -> Any:
        waiting, lost = [*waiting, message], []
        while sum(size for _, size in waiting) > limit:
            lost.append(waiting.pop(0)[0])
        return waiting, (lost[0], lost[-1] + 1) if lost else ()

    assert "`to` is inclusive" in check(drop_oldest).reason


def test_known_mistake_is_explained_in_another_form() -> None:
    def drop_oldest(waiting: Any, message: Any, limit: int) -> Any:
        waiting, lost = [*waiting, message], []
        while sum(size for _, size in waiting) > limit:
            lost.append(waiting.pop(0)[0])
        return [waiting, [lost[0], lost[-1] + 1] if lost else None]

    reason = check(drop_oldest).reason
    assert "`to` is inclusive" in reason
    assert "a list where a tuple is asked for" in reason


def test_answer_that_is_wrong_everywhere_is_not_taken_for_a_known_mistake() -> None:
    def may_connect(origin: str | None, host: str) -> bool:
        return True

    assert not check(may_connect).reason


# Answers that never return


def endless(waiting: Any, message: Any, limit: int) -> Any:
    while True:
        pass


def catches_exceptions(waiting: Any, message: Any, limit: int) -> Any:
    while True:
        try:
            waiting.pop()
        except Exception:
            continue


def endless_at_the_second_case(waiting: Any, message: Any, limit: int) -> Any:
    while sum(size for _, size in waiting) + message[1] > limit:
        waiting.append(message)
        waiting.pop()
    return [*waiting, message], None


@pytest.mark.parametrize(
    "answer", [endless, catches_exceptions, endless_at_the_second_case]
)
def test_answer_that_never_returns_is_stopped_and_the_verdict_says_so(
    answer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks_module, "PATIENCE", 0.3)
    verdict = check(named("drop_oldest", answer))
    assert verdict.solved and not verdict.passed
    assert repr(verdict) == "drop_oldest: did not return, and was stopped"
    shown = verdict._repr_markdown_()
    assert "did not return within" in shown and "was stopped" in shown
    place = 1 if answer is endless_at_the_second_case else 0
    given = EXERCISES["drop_oldest"].cases[place].given
    assert f"`{', '.join(map(repr, given))}`" in shown


def test_answer_that_exits_is_a_wrong_answer() -> None:
    def dead(peers: Any, now: float, patience: float) -> list[str]:
        raise SystemExit("enough")

    verdict = check(dead)
    assert not verdict.passed
    assert "SystemExit: enough" in verdict._repr_markdown_()


ENDLESS = """
from labserver.notebook import check, compare
def dead(peers, now, patience):
    while True:
        pass
check(dead)
"""


@pytest.mark.timeout(60)
async def test_kernel_lives_after_an_answer_that_never_returns() -> None:
    cells = [ENDLESS, "check(dead).solved", "1 + 1"]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
    )
    await build.client(notebook, FOLDER).async_execute()
    first, second, third = (cell.outputs[-1].data for cell in notebook.cells)
    assert "did not return within 2 s" in first["text/markdown"]
    assert second["text/plain"] == "True"
    assert third["text/plain"] == "2"


# Names in the texts


def texts() -> Iterator[tuple[str, str]]:
    """Yield what learners read: chapters, and the words of exercises and mistakes."""
    for name in CHAPTERS:
        yield name, (FOLDER / "source" / f"{name}.py").read_text(encoding="utf-8")
    for folder in ("notebook/exercises", "mistakes"):
        for path in sorted((ROOT / "labserver" / folder).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield path.stem, re.sub(r'"\n\s*"', "", text)


def test_text_names_no_article_that_it_does_not_introduce() -> None:
    for name, text in texts():
        assert "the article" not in text.lower(), name


def test_files_that_a_text_names_exist() -> None:
    for name, text in texts():
        for path in re.findall(r"`([\w.]+/[\w./]+\.(?:py|lua|md))`", text):
            here = [(place / path).exists() for place in (ROOT, FOLDER)]
            assert any(here), f"{name}: {path}"


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_names_in_a_hint_are_in_the_file_beside_them(exercise: Any) -> None:
    found = 0
    for names, path in re.findall(
        r"((?:`[\w.]+`(?:, | and )?)+) in (?:`)([\w/]+\.py)`", exercise.look_at
    ):
        text = Path(ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            found += 1
            for part in name.split("."):
                assert re.search(rf"\b(?:def|class) {part}\b", text), f"{path}: {name}"
    assert found or exercise.name in ("accept_key", "first_words")


@pytest.mark.parametrize(
    ("happened", "words"),
    [(1234, "1234 lines"), (631.52, "630 lines"), (4.951, "5 lines"), (0.317, "0.32")],
)
def test_counts_are_exact_and_measured_figures_have_two_digits(
    happened: float, words: str
) -> None:
    assert words in repr(compare(None, happened, "lines"))
    assert f"You said 3 lines. It was {words}" in repr(compare(3, happened, "lines"))
