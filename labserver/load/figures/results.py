"""The results of a run: a summary as text and as JSON, and files."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from labserver.load.figures.audit import Tally
from labserver.load.figures.budget import PERCENTS, share
from labserver.load.figures.generator import Generator, uncertainty
from labserver.load.figures.histogram import Histogram, ms
from labserver.load.figures.record import Record
from labserver.load.figures.trust import doubts, trusted, until_all
from labserver.load.figures.verdict import Verdict

WORTH_A_WORD = 0.02  # share of the time; less theft is not mentioned


def summary(record: Record, verdict: Verdict, required: Sequence[str] = ()) -> str:
    """Return the text that is printed at the end of a run."""
    lines = []
    for scenario in record.scenarios():
        lines.append("")
        lines.append(scenario)
        for group, tally in sorted(record.tallies.items()):
            if group.startswith(f"{scenario}/"):
                lines += _group(group, tally, record)
        for name, histogram in sorted(record.latency.items()):
            if name.startswith(f"{scenario}/") and histogram.count:
                lines += _latency(name, histogram, record)
        lines += _until_all(scenario, record)
        if unknown := record.unmeasured.get(scenario):
            lines.append(
                f"  {'not measured':<29} {unknown:,}: they arrived while their reader "
                "stood still"
            )
        if scenario in record.figures:
            lines += record.figures[scenario].lines()
        if scenario in record.notes:
            lines.append(f"  {record.notes[scenario]}")
    lines += [
        "",
        "generator",
        f"  {'sent late by':<29} p50 {ms(record.slip.percentile(50)):>9}"
        f"   p99 {ms(record.slip.percentile(99)):>9}   (included above)",
    ]
    if record.lag.count:
        lines.append(
            f"  {'read late by':<29} p50 {ms(record.lag.percentile(50)):>9}"
            f"   p99 {ms(record.lag.percentile(99)):>9}   (not included)"
        )
    if record.loop.count:
        lines.append(
            f"  {'its timers late by':<29} p50 {ms(record.loop.percentile(50)):>9}"
            f"   p99 {ms(record.loop.percentile(99)):>9}"
        )
    processes = "process" if record.processes == 1 else "processes"
    lines.append(
        f"  {'processor':<29} {record.cpu:.0%} of one core, "
        f"{record.processes} {processes}, {record.wall:.1f} s"
    )
    if record.joined < record.asked:
        lines.append(
            f"  {'users':<29} {record.joined:,} of {record.asked:,} that were asked "
            "for joined"
        )
    for each in record.generators:
        lines += _generator(each, alone=record.processes == 1)
    if required:
        lines += ["", "required", *required]
    lines += ["", f"verdict  {verdict}"]
    return "\n".join(lines)


def _group(group: str, tally: Tally, record: Record) -> list[str]:
    name = group.partition("/")[2]
    told = f", announced gaps {tally.told:,}" if tally.told else ""
    told += f", never read {tally.unread:,}" if tally.unread else ""
    told += f", never published {tally.unpublished:,}" if tally.unpublished else ""
    line = (
        f"  {name:<29} {tally.delivered:,} of {tally.expected:,} delivered, "
        f"lost {tally.lost:,}, duplicated {tally.duplicated:,}, "
        f"reordered {tally.reordered:,}{told}"
    )
    lines = [line]
    if group in record.by_design:
        for what, count in sorted(record.outcomes.get(group, {}).items()):
            lines.append(f"  {'':<29} by design: {count}x {what}")
    return lines


def _latency(name: str, histogram: Histogram, record: Record) -> list[str]:
    shown = [trusted(record, name, percent, histogram) for percent in (50, 99)]
    lines = [
        f"  {name.partition('/')[2]:<29} p50 {ms(shown[0].value):>9}"
        f"   p99 {ms(shown[1].value):>9}"
        f"   max {ms(histogram.highest):>9}   from due"
        f", {shown[0].publishes:,} publishes"
    ]
    if name in record.by_design:
        return lines
    for each in shown:
        if why := each.doubts():
            lines.append(f"  {'':<29} p{each.percent:g}: {', '.join(why)}")
    return lines


def _until_all(scenario: str, record: Record) -> list[str]:
    found = record.everybody.get(scenario)
    if found is None or not (histogram := found.histogram()).count:
        return []
    shown = [until_all(record, scenario, percent) for percent in (50, 99)]
    lines = [
        f"  {'until everybody has it':<29} p50 {ms(shown[0].value):>9}"
        f"   p99 {ms(shown[1].value):>9}"
        f"   max {ms(histogram.highest):>9}   of {histogram.count:,} messages"
    ]
    for each in shown:
        if why := each.doubts():
            lines.append(f"  {'':<29} p{each.percent:g}: {', '.join(why)}")
    return lines


def _generator(each: Generator, alone: bool) -> list[str]:
    """Return a line for one process, if there is more to say than of all."""
    said = []
    if not alone:
        said += [
            f"{each.users} users",
            f"sent late by p99 {ms(each.slip_us)}",
            f"read late by p99 {ms(each.lag_us)}",
            f"processor {each.cpu:.0%}",
        ]
    if each.waited >= WORTH_A_WORD:
        said.append(f"waited for a processor {each.waited:.0%} of the time")
    if each.stolen >= WORTH_A_WORD:
        said.append(f"{each.stolen:.0%} of the machine stolen by its host")
    if each.longest:
        said.append(f"stood still for {each.still:.2f} s, {each.longest:.2f} s at once")
    if each.ahead is not None:
        said.append(
            f"clock ahead by {each.ahead:,.4f} s, corrected to {ms(each.unsure * 1e6)}"
        )
    return [f"  {each.name:<29} {', '.join(said)}"] if said else []


def as_figures(record: Record, verdict: Verdict) -> dict[str, Any]:
    """Return ``summary.json``: the printed figures, for programs."""
    latency = {}
    for name, histogram in record.latency.items():
        latency[name] = {
            **histogram.percentiles(),
            "publishes": record.published.get(name.partition("/")[0], 0),
            "own_share": {
                f"p{percent:g}": round(share(histogram, percent).part, 4)
                for percent in PERCENTS
            },
        }
    return {
        "verdict": verdict.word,
        "exit_code": verdict.code,
        "reasons": list(verdict.reasons),
        "doubts": doubts(record),
        "delivered": record.delivered(),
        "expected": sum(tally.expected for tally in record.tallies.values()),
        "completeness": {k: v.as_json() for k, v in record.tallies.items()},
        "by_design": {
            group: dict(record.outcomes.get(group, {}))
            for group in sorted(record.by_design)
        },
        "latency_from_due_us": latency,
        "until_everybody_us": {
            scenario: {
                **histogram.percentiles(),
                "one_of": each.step,
                "unmeasured": len(each.unknown),
            }
            for scenario, each in record.everybody.items()
            if (histogram := each.histogram()).count
        },
        "unmeasured": dict(record.unmeasured),
        "published": dict(record.published),
        "unanswered": record.unanswered,
        "users": {
            "asked": record.asked,
            "joined": record.joined,
            "never_joined": dict(record.absent),
        },
        "problems": dict(record.problems),
        "figures": {k: v.told(record.began) for k, v in record.figures.items()},
        "generator": {
            "slip_us": record.slip.percentiles(),
            "lag_us": record.lag.percentiles(),
            "loop_lag_us": record.loop.percentiles(),
            "cpu_share": round(record.cpu, 4),
            "processes": record.processes,
            "seconds": round(record.wall, 3),
            "uncertainty_us": round(uncertainty(record.generators) * 1e6),
            "each": [each.as_json() for each in record.generators],
        },
    }


def run_name(kind: str) -> str:
    """Return a name for a run that begins now: time (UTC) and kind."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z-{kind}"


def machine() -> str:
    """Return cores, processor and system in one line; figures depend on them."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux
    return f"{os.cpu_count()} cores ({model}), {platform.system()}"


def versions() -> dict[str, str]:
    """Return versions of Python and libraries that figures depend on."""
    names = ("websockets", "redis", "msgspec")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def write(path: Path, data: Any) -> None:
    """Write ``data`` as JSON, completely or not at all; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(data, indent=1) + "\n")
    draft.replace(path)
