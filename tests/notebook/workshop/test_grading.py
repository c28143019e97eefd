"""A learner's folder is graded task by task, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from labserver.errors import SettingsError
from labserver.notebook.workshop import grading
from labserver.notebook.workshop.grading import Grade, chapters_in, graded
from tests.conftest import Command
from tests.support.chapters import FOLDER, build, chapter

pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]


def write(folder: Path, name: str, *tasks: str) -> None:
    """Write a chapter with the code of its first tasks, or as it is."""
    notebook = chapter(name)
    for cell, code in zip(build.tasks(notebook), tasks, strict=False):
        cell.source = code
    nbformat.write(notebook, folder / f"{name}.ipynb")


def outcomes(folder: Path, name: str) -> list[tuple[str, str]]:
    return [(each.task, each.outcome) for each in graded(FOLDER, folder, name)]


def test_untouched_and_solved_tasks_are_told_apart(tmp_path: Path) -> None:
    exercise, part = build.solutions(chapter("04_heartbeat"))
    write(tmp_path, "04_heartbeat", exercise)
    assert outcomes(tmp_path, "04_heartbeat") == [
        ("dead", "solved"),
        ("MyHeartbeat", "empty"),
    ]
    write(tmp_path, "04_heartbeat", exercise, part)
    assert [each for _, each in outcomes(tmp_path, "04_heartbeat")] == ["solved"] * 2


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("def first_words(room, text):\n    return []", "not right yet"),
        ("def first_words(room, text)", "SyntaxError"),
        ("print(undefined)", "NameError: name 'undefined' is not defined"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("first_words = 3", "UnknownExercise"),
        ("def first_words(room, text):\n    while True: pass", "did not return"),
        ("import os\nos._exit(7)", "ended the process that graded it"),
    ],
)
def test_wrong_task_says_what_was_seen(tmp_path: Path, code: str, seen: str) -> None:
    write(tmp_path, "00_start", code)
    (grade,) = graded(FOLDER, tmp_path, "00_start")
    assert grade.outcome == "wrong"
    assert seen in grade.seen


def test_cell_that_never_ends_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grading, "TIMEOUT", 5.0)
    write(tmp_path, "00_start", "while True: pass")
    assert graded(FOLDER, tmp_path, "00_start") == [
        Grade("00_start", "all", "wrong", "took more than 5 s: stopped")
    ]


def test_cells_that_are_gone_and_files_that_are_no_notebooks_are_said(
    tmp_path: Path,
) -> None:
    notebook = chapter("00_start")
    notebook.cells = notebook.cells[:3]
    nbformat.write(notebook, tmp_path / "00_start.ipynb")
    assert outcomes(tmp_path, "00_start") == [("first_words", "empty")]
    (tmp_path / "00_start.ipynb").write_text("{}")
    (grade,) = graded(FOLDER, tmp_path, "00_start")
    assert "is no notebook" in grade.seen


def test_own_server_is_judged_with_its_chapter(tmp_path: Path) -> None:
    write(tmp_path, "11_own")
    (tmp_path / "my_server.py").write_text("raise SystemExit('not today')")
    exercise, own = graded(FOLDER, tmp_path, "11_own")
    assert exercise.outcome == "empty"
    assert own.task == "my_server.py" and "not today" in own.seen


def test_folder_without_chapters_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has no chapters"):
        chapters_in(FOLDER, tmp_path)


def test_command_prints_a_table_or_json(tmp_path: Path, command: Command) -> None:
    (solution,) = build.solutions(chapter("00_start"))
    write(tmp_path, "00_start", solution)
    status, out, _ = command("grade", str(tmp_path))
    assert "✓  00_start  first_words  first_words: right" in out
    assert "1 of 1 tasks are solved" in out
    again, found, _ = command("grade", str(tmp_path), "--json")
    assert (status, again) == (0, 0)
    assert json.loads(found)[0]["outcome"] == "solved"
    empty = tmp_path / "empty"
    empty.mkdir()
    status, _, err = command("grade", str(empty))
    assert status == 2
    assert err.startswith(f"labserver: {empty} has no chapters")
