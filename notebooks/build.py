"""Build the chapters: ``python notebooks/build.py [NAME ...]``, all without a name.

A chapter's source is percent-format Python in ``source/``. This program executes it in
a fresh kernel, from top to bottom, and stores it with its outputs, so that it can be
read without running it. Cell ids are fixed and no times are recorded, so two builds
differ only in the measured figures.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).resolve().parent
REFERENCE = FOLDER / "reference"
SOURCES = sorted((FOLDER / "source").glob("*.py"))
CELL_TIMEOUT = 30  # seconds; a cell should need 5 at most
SOLUTION = re.compile(
    r"<summary>Solution</summary>\s+```python\n(.*?)```\s+</details>", re.DOTALL
)

# The README shows the picture of one chapter, and a small one of each.
PICTURE_OF, PICTURE = "05_backpressure", FOLDER / "slow-reader.png"
THUMBNAILS = FOLDER / "thumbnails"
THUMBNAIL_WIDTH = 320  # pixels; shown half as wide
THUMBNAIL_COLOURS = 32

TASKS = {"exercise", "build"}  # tags of the cells that a learner fills in


class BadChapter(Exception):
    """A chapter's source does not have the form of a chapter."""


def read(source: Path) -> NotebookNode:
    """Return a chapter as a notebook without outputs."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"{source.stem[:2]}-{number:02}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python", "file_extension": ".py"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def solutions(notebook: NotebookNode) -> list[str]:
    """Return the code under each "Solution", in order."""
    return [
        match.group(1).strip("\n")
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for match in SOLUTION.finditer(cell.source)
    ]


def tasks(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells that a learner fills in: an exercise, and what is built.

    Raises:
        BadChapter: There are others, or one has no solution before it.

    """
    kinds = [set(cell.metadata.get("tags", ())) & TASKS for cell in notebook.cells]
    found = [cell for cell, kind in zip(notebook.cells, kinds, strict=True) if kind]
    names = [name for kind in kinds for name in sorted(kind)]
    if names[:1] != ["exercise"] or "exercise" in names[1:]:
        raise BadChapter(f"the tasks are {names}")
    if len(solutions(notebook)) != len(found):
        raise BadChapter(f"{len(solutions(notebook))} solutions of {len(found)} tasks")
    return found


def solved(notebook: NotebookNode) -> NotebookNode:
    """Put the solutions into the cells of their tasks."""
    for cell, code in zip(tasks(notebook), solutions(notebook), strict=True):
        cell.source = code
    return notebook


@contextmanager
def workshop() -> Iterator[Path]:
    """Yield a folder to execute a chapter in, which may write files there."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / REFERENCE.name).symlink_to(REFERENCE)
        yield folder


def client(notebook: NotebookNode, folder: Path, **options: Any) -> NotebookClient:
    """Return a client that executes a chapter in a fresh kernel, in a folder."""
    return NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        # ipykernel warns of its TCP ports, which listen on the loopback only.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
        **options,
    )


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Remove the kernel's data about itself, which differ between machines."""
    notebook.metadata.language_info = {"name": "python", "file_extension": ".py"}
    return notebook


def build(source: Path) -> tuple[Path, float]:
    """Execute and store a chapter; return its path, and its slowest cell in s."""
    notebook = read(source)
    started, slowest = 0.0, 0.0

    def starts(cell: NotebookNode, cell_index: int) -> None:
        nonlocal started
        started = time.monotonic()

    def ends(cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        nonlocal slowest
        slowest = max(slowest, time.monotonic() - started)

    with workshop() as folder:
        client(
            notebook, folder, on_cell_execute=starts, on_cell_executed=ends
        ).execute()
    target = FOLDER / f"{source.stem}.ipynb"
    nbformat.validate(tidy(notebook))
    nbformat.write(notebook, target)
    if source.stem == PICTURE_OF:
        PICTURE.write_bytes(picture(notebook))
    THUMBNAILS.mkdir(exist_ok=True)
    thumbnail(picture(notebook)).save(THUMBNAILS / f"{source.stem}.png", optimize=True)
    return target, slowest


def thumbnail(png: bytes) -> Image.Image:
    """Return a small version of a picture, with few colours, for the README."""
    image = Image.open(BytesIO(png)).convert("RGB")
    image.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH), Image.Resampling.LANCZOS)
    return image.quantize(THUMBNAIL_COLOURS)


def picture(notebook: NotebookNode) -> bytes:
    """Return the PNG of the cell that is tagged ``picture``."""
    return next(
        base64.b64decode(output.data["image/png"])
        for cell in notebook.cells
        if "picture" in cell.metadata.get("tags", ())
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", ())
    )


def main(arguments: list[str]) -> int:
    names = {source.stem: source for source in SOURCES}
    parser = argparse.ArgumentParser(description="Execute chapters into notebooks.")
    parser.add_argument("name", nargs="*", choices=[[], *names], help="all by default")
    chosen = parser.parse_args(arguments).name or list(names)
    for name in chosen:
        started = time.monotonic()
        target, slowest = build(names[name])
        seconds = time.monotonic() - started
        size = target.stat().st_size / 1024
        print(
            f"{target.name}: {seconds:.1f} s (slowest cell {slowest:.1f} s), "
            f"{size:.0f} KB",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
