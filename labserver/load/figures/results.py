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
from labserver.load.figures.histogram import Histogram, ms
from labserver.load.figures.record import Record
from labserver.load.figures.verdict import Verdict


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
                lines.append(_latency(name.partition("/")[2], histogram))
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
    if required:
        lines += ["", "required", *required]
    lines += ["", f"verdict  {verdict}"]
    return "\n".join(lines)


def _group(group: str, tally: Tally, record: Record) -> list[str]:
    name = group.partition("/")[2]
    told = f", announced gaps {tally.told:,}" if tally.told else ""
    told += f", never read {tally.unread:,}" if tally.unread else ""
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


def _latency(name: str, histogram: Histogram) -> str:
    return (
        f"  {name:<29} p50 {ms(histogram.percentile(50)):>9}"
        f"   p99 {ms(histogram.percentile(99)):>9}"
        f"   max {ms(histogram.highest):>9}   from due"
    )


def as_figures(record: Record, verdict: Verdict) -> dict[str, Any]:
    """Return ``summary.json``: the printed figures, for programs."""
    latency = {}
    for name, histogram in record.latency.items():
        latency[name] = histogram.percentiles()
    return {
        "verdict": verdict.word,
        "exit_code": verdict.code,
        "reasons": list(verdict.reasons),
        "delivered": record.delivered(),
        "expected": sum(tally.expected for tally in record.tallies.values()),
        "completeness": {k: v.as_json() for k, v in record.tallies.items()},
        "by_design": {
            group: dict(record.outcomes.get(group, {}))
            for group in sorted(record.by_design)
        },
        "latency_from_due_us": latency,
        "published": dict(record.published),
        "unanswered": record.unanswered,
        "problems": dict(record.problems),
        "figures": {k: v.told(record.began) for k, v in record.figures.items()},
        "generator": {
            "slip_us": record.slip.percentiles(),
            "lag_us": record.lag.percentiles(),
            "loop_lag_us": record.loop.percentiles(),
            "cpu_share": round(record.cpu, 4),
            "processes": record.processes,
            "seconds": round(record.wall, 3),
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
