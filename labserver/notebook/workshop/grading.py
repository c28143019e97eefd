"""Which tasks of a learner's chapters are solved.

Each chapter is graded in a process of its own, as what a learner wrote may hang, print,
or end it. What it writes is run as it is: grade only what you would run yourself.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labserver.errors import SettingsError
from labserver.notebook.workshop.own_server import judge
from labserver.stages import LAST, STAGES

TASKS = {"exercise", "build"}  # tags of the cells that a learner fills in
TIMEOUT = 240.0  # seconds for a chapter
OWN = ("my_server.py", "my_server.mjs", "my_server.js")
OWN_CHAPTER = "11_own"


@dataclass(frozen=True)
class Grade:
    """One task of a learner.

    Attributes:
        chapter: Such as ``04_heartbeat``.
        task: Name of the function or class, or of the server's file.
        outcome: ``solved``, ``wrong``, or ``empty``.
        seen: What the verdict said, in a line.

    """

    chapter: str
    task: str
    outcome: str
    seen: str


def chapters_in(chapters: Path, folder: Path) -> list[str]:
    """Return the names of the chapters that a folder has.

    Raises:
        SettingsError: It has none.

    """
    names = [each.stem for each in sorted(chapters.glob("[0-9][0-9]_*.ipynb"))]
    there = [name for name in names if (folder / f"{name}.ipynb").is_file()]
    if not there:
        raise SettingsError(
            f"{folder} has no chapters: labserver lab makes such a folder"
        )
    return there


def graded(chapters: Path, folder: Path, name: str) -> list[Grade]:
    """Grade one chapter, in a process of its own.

    Args:
        chapters: Folder of the chapters as the project has them.
        folder: The learner's.
        name: The chapter, such as ``04_heartbeat``.

    """
    command = [sys.executable, "-m", __name__, str(chapters.resolve()), name]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=True,
        )
        return [Grade(**each) for each in json.loads(done.stdout)]
    except subprocess.TimeoutExpired:
        return [Grade(name, "all", "wrong", f"took more than {TIMEOUT:g} s: stopped")]
    except (subprocess.CalledProcessError, ValueError):
        return [Grade(name, "all", "wrong", "ended the process that graded it")]


async def grade(chapters: Path, folder: Path, name: str) -> list[Grade]:
    """Grade one chapter in this process; see :func:`graded`."""
    asked = _cells(chapters / f"{name}.ipynb")
    try:
        written = [cell for cell, _ in _tasks(_cells(folder / f"{name}.ipynb"))]
    except (OSError, ValueError, LookupError) as exc:
        return [Grade(name, "all", "wrong", f"is no notebook ({type(exc).__name__})")]
    grades = []
    for number, (cell, verdict) in enumerate(_tasks(asked)):
        task = _named(cell)
        if number >= len(written):
            grades.append(Grade(name, task, "empty", "its cell is missing"))
        else:
            grades.append(await _grade(name, task, written[number], verdict))
    if name == OWN_CHAPTER:
        grades += [await _own(each) for each in OWN if (folder / each).is_file()]
    return grades


async def _grade(chapter: str, task: str, code: str, verdict: str) -> Grade:
    """Run a learner's cell, then the project's verdict on it."""
    names: dict[str, Any] = {"__name__": "a_cell"}
    try:
        exec("from labserver.notebook import *", names)
        await _run(code, names)
        found = await _run(verdict, names)
    except (Exception, SystemExit) as exc:
        said = f"{type(exc).__name__}: {exc}".partition("\n")[0][:160]
        return Grade(chapter, task, "wrong", said)
    solved = getattr(found, "passed", getattr(found, "kept", False))
    written = getattr(found, "solved", getattr(found, "written", True))
    outcome = "solved" if solved else "wrong" if written else "empty"
    return Grade(chapter, task, outcome, repr(found).partition("\n")[0])


async def _own(file: str) -> Grade:
    """Judge a server of the capstone up to the last promise that it keeps."""
    judged = await judge(file, stage=LAST)
    kept = [f"{STAGES[each].number}" for each in judged.kept]
    if len(kept) == len(STAGES):
        return Grade(OWN_CHAPTER, file, "solved", "keeps all promises")
    said = f"keeps the promises {', '.join(kept)}" if kept else "keeps no promise"
    return Grade(OWN_CHAPTER, file, "wrong", judged.trouble or said)


async def _run(code: str, names: dict[str, Any]) -> Any:
    """Execute a cell, which may await; return the value of its last expression."""
    tree = ast.parse(code)
    last = (
        tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    )
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    parts: list[tuple[Any, str]] = [(tree, "exec")]
    if isinstance(last, ast.Expr):
        parts.append((ast.Expression(last.value), "eval"))
    value = None
    for part, how in parts:
        value = eval(compile(part, "a cell", how, flags=flags), names)
        if inspect.isawaitable(value):
            value = await value
    return value


def _cells(notebook: Path) -> list[dict[str, Any]]:
    found = json.loads(notebook.read_text(encoding="utf-8"))
    cells: list[dict[str, Any]] = found["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def _tasks(cells: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the code of each task, and that of the cell after it: its verdict."""
    for cell, after in zip(cells, [*cells[1:], {"source": ""}], strict=True):
        if TASKS & set(cell.get("metadata", {}).get("tags", ())):
            yield _text(cell), _text(after)


def _text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def _named(code: str) -> str:
    """Return the last function or class that a cell defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [each.name for each in ast.parse(code).body if isinstance(each, kinds)][-1]


def main(chapters: str, name: str) -> None:
    """Print the grades of a chapter in this folder, as JSON, and nothing else."""
    told = os.dup(1)
    os.dup2(2, 1)  # what a learner's program prints goes elsewhere
    grades = asyncio.run(grade(Path(chapters), Path.cwd(), name))
    with contextlib.suppress(OSError), os.fdopen(told, "w") as out:
        json.dump([asdict(each) for each in grades], out)
        out.flush()
    os._exit(0)  # a thread of a learner's may never end


if __name__ == "__main__":
    main(*sys.argv[1:])
