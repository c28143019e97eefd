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
from labserver.load.figures.trust import doubts, slowest, trusted, until_all, whole
from labserver.load.figures.verdict import EXIT_INVALID
from labserver.load.pictures.drawing import Picture, Stamp, png, svg, unbroken
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
}
HEADINGS = {
    "fanout": "Fan-out",
    "slow_readers": "Slow readers",
    "replicas": "Replicas",
    "reconnect_storm": "Reconnect storm",
    "idle": "Idle connections",
    "churn": "Churn",
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
    for picture, several in together(runs):
        png(picture, caption_of(several), folder, stamp_of(several))
    return path


def page(runs: Sequence[Saved], missing: str = "") -> str:
    """Return the report as HTML.

    Args:
        runs: The runs, in their order.
        missing: A sentence, if runs are missing.

    """
    shown = [section(run, number) for number, run in enumerate(runs, 1)]
    compared = together(runs)
    groups = []
    for scenario in dict.fromkeys(run.scenario for run in runs):
        mine = [each for each in shown if each["scenario"] == scenario]
        for run, each in zip(runs, shown, strict=True):
            if run.scenario == scenario:
                each["pictures"], each["more"] = divided(run, len(mine))
        groups.append(
            {
                "heading": HEADINGS.get(scenario, scenario),
                "question": QUESTIONS.get(scenario, ""),
                "pictures": [
                    drawn(picture, caption_of(several))
                    for picture, several in compared
                    if several[0].scenario == scenario
                ],
                "runs": mine,
            }
        )
    notes = [missing] if missing else []
    notes += [
        f"{r.folder.name} ended early, {r.cut_short}" for r in runs if r.cut_short
    ]
    return rendered(
        "report.html",
        title="Load test: " + (shown[0]["heading"] if len(shown) == 1 else "all of it"),
        when=when(runs[0]),
        machines=list(dict.fromkeys(run.where for run in runs)),
        finding=finding(runs),
        notes=notes,
        runs=shown,
        groups=groups,
        good=MOODS[0][1],
        bad=BAD[1],
    )


def divided(run: Saved, siblings: int) -> tuple[list[Any], list[Any]]:
    """Return the pictures to show, and those that a reader may unfold.

    Of several runs of a scenario, those with a fault are shown, and those that failed.
    Figures over time are shown where something happened.
    """
    every = [(each.name, drawn(each)) for each in pictures(run)]
    eventful = bool(run.faults) or run.summary["exit_code"] not in (0, EXIT_INVALID)
    shown: list[Any] = []
    more: list[Any] = []
    for name, each in every:
        quiet = name.endswith("-timeline") or siblings > 1
        (more if quiet and not eventful else shown).append(each)
    return shown, more


def rendered(template: str, **values: Any) -> str:
    """Return a page; the values are escaped, except pictures."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),
        trim_blocks=True,
    )
    return environment.get_template(template).render(palette=PALETTE, **values)


def drawn(picture: Picture, caption: str = "") -> dict[str, Any]:
    """Return the values of a picture for a page.

    Args:
        picture: The picture.
        caption: Machine and load, where they do not stand beside it.

    """
    from markupsafe import Markup

    return {
        "title": unbroken(picture.title),
        "drawn": Markup(svg(picture)),
        "read": picture.read,
        "note": picture.note,
        "caption": caption,
    }


def when(run: Saved) -> str:
    """Return the beginning of a run as text."""
    started = run.about.get("started", {}).get("utc", "")
    return str(started).replace("T", " ")[:19] + " UTC"


def caption_of(runs: Sequence[Saved]) -> str:
    """Return machine and loads of several runs, which have several servers."""
    loads = "; or ".join(dict.fromkeys(str(run.about["load"]) for run in runs))
    return f"{runs[0].machine}. {loads}."


def stamp(run: Saved) -> Stamp:
    """Return the verdict that stands in the pictures of a run."""
    word, code = str(run.summary["verdict"]), int(run.summary["exit_code"])
    reasons = "; ".join(map(str, run.summary["reasons"]))
    said = "" if not code and not doubts(run.record) else f": {reasons}"
    return Stamp(f"{word}{said}", code)


def stamp_of(runs: Sequence[Saved]) -> Stamp:
    """Return the verdict of several runs: the first that is not VALID."""
    bad = [run for run in runs if run.summary["exit_code"]]
    if not bad:
        return Stamp(f"VALID: all {len(runs)} runs", 0)
    first = stamp(bad[0])
    return Stamp(
        f"{len(bad)} of {len(runs)} runs are not VALID; {bad[0].title} is {first.text}",
        first.code,
    )


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
    every = slowest(record)
    if variant := run.about.get("variant"):
        heading = f"{heading}: {variant}"
    return {
        "id": f"run-{number}",
        "scenario": run.scenario,
        "heading": heading,
        "variant": variant or "",
        "load": f"{run.about['load']}. {run.about.get('server', '')}",
        "word": str(summary["verdict"]).lower(),
        "mood": mood,
        "sign": sign,
        "reasons": "; ".join(map(str, summary["reasons"])),
        "delivered": share(delivered, expected),
        "p50": trusted(record, "", 50) if latency.count else None,
        "p99": trusted(record, "", 99) if latency.count else None,
        "all": until_all(record, "", 99) if every.count else None,
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
