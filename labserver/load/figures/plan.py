"""Whether a folder has all the runs that were planned, or was interrupted.

``plan.json`` is written before the first run and again after the last one. So a folder
whose program was ended in between, in whatever way, says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labserver.load.figures.results import write
from labserver.load.figures.saved import is_run, read

FILE = "plan.json"
ASIDE = "invalid"  # folder for runs that were made again
SIDES = ("A", "B")  # folders of a comparison in turns


def begin(folder: Path, cases: Sequence[str]) -> None:
    """Record the runs that are planned, by name of their case; raises OSError.

    No names: nobody knows how many there will be.
    """
    write(folder / FILE, {"planned": list(cases), "finished": False})


def finish(folder: Path) -> None:
    """Record that all of them are over; raises OSError."""
    write(folder / FILE, {**read(folder / FILE), "finished": True})


def unfinished(folder: Path) -> str:
    """Return a sentence if the folder, or the comparison it is a side of, is not whole.

    Raises:
        Unreadable: The plan is broken.

    """
    if folder.name in SIDES:
        folder = folder.parent
    if not (folder / FILE).is_file():
        return ""
    plan = read(folder / FILE)
    if plan.get("finished"):
        return ""
    places = (folder, *(folder / side for side in SIDES))
    here = sum(
        is_run(each) for place in places if place.is_dir() for each in place.iterdir()
    )
    planned = len(plan.get("planned", ()))
    runs = f"{here} of {planned} planned runs" if planned else f"{here} runs"
    return f"{folder.name} was interrupted, or is still going on: {runs} are there"


def set_aside(run: Path) -> None:
    """Move a run whose generator was too busy, because it is made again."""
    place = run.parent / ASIDE
    place.mkdir(exist_ok=True)
    run.rename(place / run.name)


def made_again(folder: Path) -> str:
    """Return a sentence if runs were set aside; else an empty string."""
    place = folder / ASIDE
    count = sum(map(is_run, place.iterdir())) if place.is_dir() else 0
    if not count:
        return ""
    what = "run was" if count == 1 else "runs were"
    return f"{count} {what} INVALID and made again, see {folder.name}/{ASIDE}"
