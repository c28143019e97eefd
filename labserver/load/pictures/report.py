"""One page for the runs of a folder: verdicts first, then pictures.

The page is a single file without scripts. It contains the pictures as SVG, in the
colours of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labserver.load.figures.plan import unfinished
from labserver.load.figures.saved import Saved
from labserver.load.figures.trust import doubts, trusted, whole
from labserver.load.pictures.drawing import Picture, png, svg
from labserver.load.pictures.gallery import pictures, together
from labserver.load.pictures.style import PALETTE

NAME = "report.html"
# The question of each scenario.
QUESTIONS = {
    "fanout": "One publisher, many members in one room: how long after a message was "
    "due does every member have it?",
    "slow_readers": "Some members read slowly, or not at all: do the healthy members "
    "suffer, and what happens to the slow ones?",
    "replicas": "Members on several replicas, and a fault half-way: how much latency "
    "does the broker add, and does any member miss a message?",
    "reconnect_storm": "All members are cut off at once: how soon are they back, and "
    "how high is the peak of connects, with and without jitter?",
    "idle": "Idle connections: how much memory does one take, and how soon does the "
    "server notice a dead one?",
    "churn": "Members come and go, with good tokens and bad: what do a handshake, a "
    "join and a refusal cost?",
    "omission": "The same stall, measured in two ways: why latency is counted from "
    "when a message was due.",
}
HEADINGS = {
    "fanout": "Fan-out",
    "slow_readers": "Slow readers",
    "replicas": "Replicas",
    "reconnect_storm": "Reconnect storm",
    "idle": "Idle connections",
    "churn": "Churn",
    "omission": "Coordinated omission",
    "mixed": "Everything at once",
}
MOODS = {0: ("good", "\N{HEAVY CHECK MARK}"), 4: ("unsure", "?")}
BAD = ("bad", "\N{HEAVY BALLOT X}")


def write_report(runs: Sequence[Saved], folder: Path) -> Path:
    """Write ``report.html``, and the pictures of several runs; return its path.

    Raises:
        OSError: It cannot be written.

    """
    path = folder / NAME
    path.write_text(page(runs, unfinished(folder)), encoding="utf-8")
    for picture in together(runs):
        png(picture, without_server(runs[0]), folder)
    return path


def page(runs: Sequence[Saved], missing: str = "") -> str:
    """Return the report as HTML.

    Args:
        runs: The runs, in their order.
        missing: A sentence, if runs are missing.

    """
    shown = [section(run, number) for number, run in enumerate(runs, 1)]
    slow = next((run for run in runs if run.scenario == "slow_readers"), None)
    for run, each in zip(runs, shown, strict=True):
        several = together(runs) if run is slow else []
        each["pictures"] = [
            *(drawn(picture, without_server(run)) for picture in several),
            *(drawn(picture, run.caption) for picture in pictures(run)),
        ]
    notes = [missing] if missing else []
    notes += [
        f"{r.folder.name} ended early, {r.cut_short}" for r in runs if r.cut_short
    ]
    return rendered(
        "report.html",
        title="Load test: " + (shown[0]["heading"] if len(shown) == 1 else "all of it"),
        when=when(runs[0]),
        machines=list(dict.fromkeys(run.machine for run in runs)),
        finding=finding(runs),
        notes=notes,
        runs=shown,
        good=MOODS[0][1],
        bad=BAD[1],
    )


def rendered(template: str, **values: Any) -> str:
    """Return a page; the values are escaped, except pictures."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),
        trim_blocks=True,
    )
    return environment.get_template(template).render(palette=PALETTE, **values)


def drawn(picture: Picture, caption: str) -> dict[str, Any]:
    """Return the values of a picture for a page."""
    from markupsafe import Markup

    return {
        "title": picture.title,
        "drawn": Markup(svg(picture)),
        "read": picture.read,
        "note": picture.note,
        "caption": caption,
    }


def when(run: Saved) -> str:
    """Return the beginning of a run as text."""
    started = run.about.get("started", {}).get("utc", "")
    return str(started).replace("T", " ")[:19] + " UTC"


def without_server(run: Saved) -> str:
    """Return a caption without the server, for a picture of runs on several servers."""
    return run.caption.partition(" Server:")[0]


def finding(runs: Sequence[Saved]) -> str:
    """Return the verdicts of all runs in a sentence."""
    words: dict[str, int] = {}
    for run in runs:
        word = str(run.summary["verdict"]).lower()
        words[word] = words.get(word, 0) + 1
    if list(words) == ["valid"] and any(doubts(run.record) for run in runs):
        return (
            "Every message arrived once and in order, but some percentiles are the "
            "generator's own, and say so."
        )
    if list(words) == ["valid"]:
        return (
            "Every message arrived once and in order, and the generator was "
            "fast enough for the figures to mean something."
        )
    return "Of all runs: " + ", ".join(f"{n} {word}" for word, n in words.items()) + "."


def section(run: Saved, number: int) -> dict[str, Any]:
    """Return the values of a run for the page."""
    summary, record = run.summary, run.record
    mood, sign = MOODS.get(summary["exit_code"], BAD)
    latency = whole(record)
    tallies = [
        each for name, each in record.tallies.items() if name not in record.by_design
    ]
    expected = sum(each.expected for each in tallies)
    delivered = sum(each.delivered for each in tallies)
    heading = HEADINGS.get(run.scenario, run.scenario)
    if variant := run.about.get("variant"):
        heading = f"{heading}: {variant}"
    return {
        "id": f"run-{number}",
        "heading": heading,
        "question": QUESTIONS.get(run.scenario, ""),
        "word": str(summary["verdict"]).lower(),
        "mood": mood,
        "sign": sign,
        "reasons": "; ".join(map(str, summary["reasons"])),
        "delivered": share(delivered, expected),
        "p50": str(trusted(record, "", 50)) if latency.count else "",
        "p99": str(trusted(record, "", 99)) if latency.count else "",
        "required": summary.get("requirements", ()),
        "folder": run.folder.name,
    }


def share(delivered: int, expected: int) -> str:
    """Return the share that arrived as text; ``100 %`` only if all arrived."""
    if not expected:
        return ""
    if delivered == expected:
        return "100 %"
    return f"{min(99.999, 100 * delivered / expected):.3f} %"
