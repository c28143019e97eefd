"""``labserver lab`` and ``grade``: a folder of chapters, and what is solved in it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from labserver.cli.app import AsJson, app, console_of, fail, table_out
from labserver.cli.folder import prepare

GRADES = {"solved": "[green]✓[/]", "wrong": "[red]✗[/]", "empty": "[dim]○[/]"}
FIRST_CHAPTER = "00_start.ipynb"
# From the folder: the project is not in the package index, and a stranger's may be.
NOTEBOOKS = "pip install '.[notebooks]' in the project's folder"


@app.command()
def lab(
    folder: Annotated[
        Path, typer.Argument(help="Where your copies of the chapters are.")
    ] = Path("workshop"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")
    ] = 8888,
    browser: Annotated[
        bool, typer.Option(help="Open a browser, if there is one.")
    ] = False,
) -> None:
    """Open JupyterLab on your copies of the chapters; it prints its URL.

    The copies are made once, without outputs, in FOLDER. What you change there
    stays.
    """
    if shutil.which("jupyter-lab", path=str(Path(sys.executable).parent)) is None:
        fail(f"JupyterLab is not installed: {NOTEBOOKS}")
    for each in prepare(_notebooks(), folder):
        print(each, file=sys.stderr)
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}"]
    command += [f"--LabApp.default_url=/lab/tree/{FIRST_CHAPTER}"]
    # At level INFO a page of lines hides the URL, and more come after it.
    command += [f"--port={port}", "--ip=127.0.0.1", "--log-level=WARN"]
    command += [] if browser else ["--no-browser"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    os.execv(command[0], command)  # so that signals reach JupyterLab


@app.command()
def grade(
    folder: Annotated[
        Path, typer.Argument(help="A learner's folder, as labserver lab makes it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say which tasks of which chapter are solved in a folder.

    What the learner wrote is run: grade only what you would run yourself. Takes
    a few minutes. Ends with status 0 when all is solved, else with 1.
    """
    try:
        from labserver.notebook.workshop import grading
    except ModuleNotFoundError as exc:
        fail(f"{exc.name} is not installed: {NOTEBOOKS}")
    chapters, grades = _notebooks(), list[grading.Grade]()
    console = console_of(as_json)
    names = grading.chapters_in(chapters, folder)
    with console.status("grading") as status:
        for name in names:
            status.update(f"{name}: {len(grades)} tasks so far")
            grades += grading.graded(chapters, folder, name)
    if as_json:
        print(json.dumps([asdict(each) for each in grades], indent=2))
    else:
        table = Table("", "chapter", "task", "what was seen", box=None, pad_edge=False)
        for each in grades:
            mark = GRADES[each.outcome]
            table.add_row(mark, each.chapter, escape(each.task), escape(each.seen))
        table_out.print(table)
    solved = sum(each.outcome == "solved" for each in grades)
    console.print(f"{solved} of {len(grades)} tasks are solved")
    raise typer.Exit(0 if solved == len(grades) else 1)


def _notebooks() -> Path:
    for folder in (Path.cwd(), *Path(__file__).resolve().parents[2:3]):
        if (folder / "notebooks").is_dir():
            return folder / "notebooks"
    fail("there is no folder notebooks here: run this in a checkout of the project")
