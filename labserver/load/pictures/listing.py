"""A page that lists runs with their verdicts, and leads to their reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labserver.load.figures.saved import Unreadable, read
from labserver.load.pictures.report import BAD, HEADINGS, MOODS, rendered


def listed(folders: Sequence[Path]) -> str:
    """Return the list as HTML, in the order of the folders."""
    return rendered("listing.html", title="Runs", runs=[row(each) for each in folders])


def row(folder: Path) -> dict[str, Any]:
    """Return the values of a run; those of a broken one say what is wrong."""
    name = folder.name
    try:
        about, summary = read(folder / "run.json"), read(folder / "summary.json")
        mood, sign = MOODS.get(summary["exit_code"], BAD)
        return {
            "name": name,
            "when": about["started"]["utc"].replace("T", " ")[:19],
            "heading": HEADINGS.get(name.partition("Z-")[2], name),
            "load": about["load"],
            "word": str(summary["verdict"]).lower(),
            "mood": mood,
            "sign": sign,
            "reasons": "; ".join(summary["reasons"]),
        }
    except Unreadable as exc:
        return {"name": name, "heading": name, "reasons": str(exc)}
    except (KeyError, TypeError, AttributeError):
        return {"name": name, "heading": name, "reasons": "of another version"}
