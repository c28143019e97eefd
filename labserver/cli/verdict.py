"""A verdict in words, as JSON and as JUnit XML."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from labserver.judge.clients import CHECKS
from labserver.judge.evidence import shown
from labserver.judge.junit import Case, document
from labserver.judge.run import Finding, Verdict
from labserver.stages import STAGES

SHOWN = 12  # events of a broken check


def dashed(name: str) -> str:
    """Return the name of a check, as ``--only`` takes it."""
    return name.replace("_", "-")


def say(verdict: Verdict, console: Console, target: Sequence[str] = ()) -> None:
    """Print the verdict: each promise, what broke it, and where to read on.

    Args:
        verdict: What was found.
        console: Where.
        target: What was judged, for the line that asks one check again.

    """
    console.print()
    for name in verdict.stages:
        stage, found = STAGES[name], verdict.of(name)
        mine = [each for each in verdict.findings if each.stage == name]
        broken = [each for each in mine if each.outcome == "broken"]
        if found == "kept":
            skipped = sum(each.outcome == "skipped" for each in mine)
            more = f" ({skipped} of {len(mine)} checks skipped)" if skipped else ""
            what = f"[green]Promise {stage.number} kept:[/] {stage.promise}{more}"
            console.print(what, soft_wrap=True)
        elif found == "unjudged":
            what = f"Promise {stage.number} not judged: {escape(mine[0].seen)}."
            console.print(what, soft_wrap=True)
        for each in broken:
            console.print(
                f"[red]Promise {stage.number} broken[/] ({escape(each.says)}): "
                f"{escape(each.seen)}.",
                soft_wrap=True,
            )
            for event, count in shown(each.events, each.seen, SHOWN):
                times = f" ({count} times)" if count > 1 else ""
                what = f"{escape(str(event))}{times}"
                console.print(
                    f"    [dim]{event.at:8.3f} s  {what}[/]",
                    soft_wrap=True,
                )
            if target:
                what = again(each, verdict.stages[-1], target)
                console.print(f"  Again: {escape(what)}", soft_wrap=True)
        if broken:
            chapter = f"notebooks/{stage.number:02}_{name}.ipynb"
            where = f"{chapter} (labserver lab opens it), {stage.file}"
            console.print(f"  Read on: {escape(where)}", soft_wrap=True)
    if any("in vain" in each.seen for each in verdict.findings):
        console.print("What only comes late is seen with --patience SECONDS.")


def again(finding: Finding, stage: str, target: Sequence[str]) -> str:
    """Return the command line that asks one check again."""
    only = f"--only {dashed(finding.check)}"
    if finding.check in {check.__name__ for check in CHECKS}:
        return f"labserver judge --client {only} -- {shlex.join(target)}"
    there = target[0].startswith(("ws://", "wss://"))
    what = shlex.join(target) if there else f"-- {shlex.join(target)}"
    return f"labserver judge --stage {stage} {only} {what}"


def as_json(verdict: Verdict) -> str:
    """Return the verdict as JSON."""
    promises = [
        {
            "number": STAGES[name].number,
            "stage": name,
            "promise": STAGES[name].promise,
            "outcome": verdict.of(name),
            "checks": [
                {k: v for k, v in asdict(each).items() if k != "stage"}
                for each in verdict.findings
                if each.stage == name
            ],
        }
        for name in verdict.stages
    ]
    return json.dumps({"status": verdict.status, "promises": promises}, indent=2)


def as_junit(verdict: Verdict) -> str:
    """Return the verdict as JUnit XML."""
    outcomes: dict[str, Any] = {"kept": "passed", "broken": "failed"}
    return document(
        Case(
            each.stage,
            each.check,
            each.seconds,
            outcomes.get(each.outcome, "skipped"),
            each.seen,
            "\n".join(f"{event.at:.3f} {event}" for event in each.events)
            if each.outcome == "broken"
            else "",
        )
        for name in verdict.stages
        for each in verdict.findings
        if each.stage == name
    )
