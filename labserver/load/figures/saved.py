"""Reads the folders of runs; refuses broken ones with a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labserver.load.figures.record import Record, merged
from labserver.load.figures.timeline import read_csv

ABOUT = "LAB_LOAD_ABOUT"  # JSON from the starter of the servers, added to run.json
# Variants of a scenario that its other variants are compared with.
CONTROL, ALONE, CALM = "none is slow", "one process", "no fault"
FILE_LIMIT = 200_000_000  # bytes; larger files are not read
RUNS_LIMIT = 500  # runs; folders with more are not read


class Unreadable(Exception):
    """A folder is not a run, or is incomplete; the message is a sentence."""


@dataclass
class Saved:
    """One run, read from its folder."""

    folder: Path
    about: Mapping[str, Any]  # run.json
    summary: Mapping[str, Any]  # summary.json
    record: Record  # the sum of the part files
    table: list[dict[str, Any]] = field(default_factory=list)  # timeline.csv

    @property
    def name(self) -> str:
        return str(self.about["name"])

    @property
    def scenario(self) -> str:
        """The part of the run's name after the time."""
        return self.name.partition("Z-")[2] or self.name

    @property
    def machine(self) -> str:
        return str(self.about["machine"])

    @property
    def where(self) -> str:
        """The machine, and the version of Python."""
        python = self.about["versions"].get("python")
        return f"{self.machine}{f', Python {python}' if python else ''}"

    @property
    def caption(self) -> str:
        """The machine and the load, in a line."""
        server = self.about.get("server")
        parts = [f"{self.where}.", f"{self.about['load']}."]
        if server:
            parts.append(f"Server: {server}.")
        return " ".join(parts)

    @property
    def cut_short(self) -> str:
        """When the run ended, if that was before its time; else an empty string."""
        return str(self.about.get("cut_short", ""))

    @property
    def title(self) -> str:
        """The scenario, and its variant."""
        variant = self.about.get("variant")
        return f"{self.scenario}, {variant}" if variant else self.scenario

    @property
    def faults(self) -> list[tuple[float, str]]:
        """Injected faults: seconds since the start of the run, and a description."""
        return [(each["at"], each["text"]) for each in self.about.get("faults", ())]


def is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def load(folder: Path) -> Saved:
    """Read one run.

    Raises:
        Unreadable: The folder is not a run, or a file is missing or broken.

    """
    if not folder.is_dir():
        raise Unreadable(f"{folder} is not a folder")
    if not is_run(folder):
        raise Unreadable(f"{folder} is not a run: it has no run.json")
    about, summary = (read(folder / name) for name in ("run.json", "summary.json"))
    parts = sorted(folder.glob("part-*.json"))
    if not parts:
        raise Unreadable(f"{folder} is incomplete: it has no part-0.json")
    try:
        record = merged(Record.from_json(read(each)) for each in parts)
        timeline = folder / "timeline.csv"
        table = read_csv(timeline) if timeline.exists() else []
        saved = Saved(folder, about, summary, record, table)
        if not {"verdict", "exit_code", "reasons"} <= summary.keys():
            raise KeyError("verdict")
        _ = saved.name, saved.caption, saved.faults
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as exc:
        raise Unreadable(
            f"{folder} is of another version, or broken ({type(exc).__name__}: {exc}): "
            "run it again"
        ) from None
    return saved


def load_all(folder: Path) -> list[Saved]:
    """Read a run, or every run of a folder, in the order in which they were made.

    Raises:
        Unreadable: There is none, or one is broken.

    """
    if is_run(folder):
        return [load(folder)]
    if not folder.is_dir():
        raise Unreadable(f"{folder} is not a folder")
    runs = sorted(each for each in folder.iterdir() if is_run(each))
    if not runs:
        raise Unreadable(
            f"{folder} contains no run: give a folder that `python -m loadtests` made, "
            "or a run in it"
        )
    if len(runs) > RUNS_LIMIT:
        raise Unreadable(f"{folder} has {len(runs)} runs, more than {RUNS_LIMIT}")
    return [load(each) for each in runs]


def read(path: Path) -> Any:
    """Return the object in a JSON file.

    Raises:
        Unreadable: The file is missing, too large, or not a JSON object.

    """
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise Unreadable(f"{path} is larger than {FILE_LIMIT:,} bytes")
        data = json.loads(path.read_text())
    except OSError as exc:
        raise Unreadable(f"{path}: {exc.strerror}") from None
    except ValueError:
        raise Unreadable(f"{path} is not valid JSON") from None
    if not isinstance(data, dict):
        raise Unreadable(f"{path} is not a JSON object")
    return data
