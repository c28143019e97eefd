"""What a pipeline reads of several runs: one JSON file, and JUnit XML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labserver.errors import SettingsError
from labserver.load.figures.record import Record
from labserver.load.figures.require import ALL, COUNTS, percent, seen
from labserver.load.figures.trust import doubts, trusted, until_all
from labserver.load.run.suite import Outcome, worst

if TYPE_CHECKING:
    from labserver.judge.junit import Case

DURATIONS = ("p50", "p95", "p99", "max", "all.p50", "all.p99", "all.max")


def prepare(*files: Path | None) -> None:
    """Remove what an earlier run wrote, so that nobody takes it for this one's.

    Raises:
        SettingsError: A file cannot be written later.

    """
    for file in filter(None, files):
        try:
            file.unlink(missing_ok=True)
            file.touch()
            file.unlink()
        except OSError as exc:
            raise SettingsError(f"{file} cannot be written: {exc.strerror}") from None


def write(
    outcomes: Sequence[Outcome], folder: Path, as_json: Path | None, junit: Path | None
) -> None:
    """Write the files that were asked for.

    Raises:
        SettingsError: One cannot be written.

    """
    from labserver.judge import junit as xml  # takes half a second

    if as_json:
        xml.write(as_json, json.dumps(told(outcomes, folder), indent=2) + "\n")
    if junit:
        xml.write(junit, xml.document(cases(outcomes)))


def told(outcomes: Sequence[Outcome], folder: Path) -> dict[str, Any]:
    """Return the runs for a program.

    Latencies are in milliseconds from the due time, ``delivered`` in percent; None was
    not measured. ``own_share`` is the part of a latency that the generator spent.

    """
    return {
        "status": worst([each.code for each in outcomes]),
        "folder": str(folder),
        "runs": [run(each) for each in outcomes],
    }


def run(outcome: Outcome) -> dict[str, Any]:
    saved, case = outcome.saved, outcome.case
    found: dict[str, Any] = {
        "scenario": case.scenario,
        "variant": case.variant,
        "verdict": outcome.word,
        "status": outcome.code,
        "seconds": round(outcome.seconds, 1),
    }
    if saved is None:
        return found
    record = saved.record
    latency = {name: seen(record, name) for name in DURATIONS}
    return {
        **found,
        "reasons": list(saved.summary["reasons"]),
        "requirements": list(saved.summary.get("requirements", ())),
        "delivered": seen(record, "delivered"),
        "latency_ms": {k: v and round(v / 1000, 3) for k, v in latency.items()},
        "own_share": {name: own_share(record, name) for name in DURATIONS},
        "doubts": doubts(record),
        **{name: int(seen(record, name) or 0) for name in COUNTS},
        "load": saved.about["load"],
        "machine": saved.machine,
        "folder": saved.folder.name,
    }


def own_share(record: Record, figure: str) -> float:
    """Return the part of a latency that is the generator's own, from 0 to 1."""
    bare = figure.removeprefix(ALL)
    share = 100.0 if bare == "max" else percent(bare) or 0.0
    if bare != figure:
        return round(until_all(record, "", share).own, 4)
    return round(trusted(record, "", share).own, 4)


def cases(outcomes: Sequence[Outcome]) -> Iterator[Case]:
    """Yield a test case for each run, and for each requirement on it."""
    from labserver.judge.junit import Case

    for each in outcomes:
        suite, saved = each.case.name, each.saved
        if saved is None:
            yield Case(suite, "run", each.seconds, "error", each.word)
            continue
        reasons = "; ".join(map(str, saved.summary["reasons"]))
        unmet = [a for a in saved.summary.get("requirements", ()) if not a["met"]]
        said = f"{each.word}: {reasons}"
        if each.code == 4:
            yield Case(suite, "run", each.seconds, "error", said)
        elif each.code and len(unmet) < len(saved.summary["reasons"]):
            yield Case(suite, "run", each.seconds, "failed", said)
        else:
            yield Case(suite, "run", each.seconds)
        for answer in saved.summary.get("requirements", ()):
            told = f"{answer['figure']} is {answer['seen']}"
            if answer["met"]:
                yield Case(suite, answer["require"], 0.0)
            elif each.code == 4:
                why = f"{told}, in a run that is INVALID"
                yield Case(suite, answer["require"], 0.0, "skipped", why)
            else:
                yield Case(suite, answer["require"], 0.0, "failed", told)
