"""The output of the demo: a live page on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from labserver.demo.crowd import Tally
from labserver.demo.steps import Step
from labserver.demo.world import Place


@dataclass
class Line:
    """The figures of one step, as differences since its beginning."""

    step: Step
    delivered: int = 0
    median: float = 0.0  # seconds
    slowest: float = 0.0
    returned: int = 0
    lost: int = 0


class Screen:
    """Shows the tour while it runs."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self.started = time.monotonic()
        self.lines: list[Line] = []
        self.live: Live | None = None
        if console.is_terminal:
            self.live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        else:
            self.console.print(self.title)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()

    def begin(self, line: Line, of: int) -> None:
        """Start a step."""
        self.lines.append(line)
        if not self.live:
            seconds = time.monotonic() - self.started
            number = len(self.lines)
            self.console.print(f"{seconds:5.1f} s  {number}/{of} {line.step.title}")

    def end(self) -> None:
        """Print the figures of the step."""
        if not self.live:
            line = self.lines[-1]
            self.console.print(
                f"         delivered {line.delivered:,}, slowest "
                f"{line.slowest * 1000:.0f} ms, came back {line.returned}, "
                f"lost {line.lost}"
            )

    def show(self, places: Sequence[Place], tally: Tally) -> None:
        """Draw the page again."""
        if self.live:
            seconds = time.monotonic() - self.started
            title = Text(f"{self.title}   {seconds:.0f} s", style="bold")
            sentence = Text(self.lines[-1].step.sentence) if self.lines else Text("")
            parts = (title, "", steps(self.lines, True), "", sentence, "")
            page = Group(*parts, replicas(places), "", totals(tally))
            self.live.update(page, refresh=True)

    def summary(self, tally: Tally) -> None:
        """Print the final tables."""
        if self.live:
            self.live.stop()
            self.console.print(Text(self.title, style="bold"))
        self.console.print()
        self.console.print(steps(self.lines))
        self.console.print()
        self.console.print(totals(tally))


def steps(lines: Sequence[Line], running: bool = False) -> Table:
    """Return a table of the steps so far."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("step", min_width=24)
    for name in ("delivered", "median", "slowest", "came back", "lost"):
        table.add_column(name, justify="right")
    for number, line in enumerate(lines, 1):
        now = running and number == len(lines)
        table.add_row(
            f"{number} {line.step.title}",
            f"{line.delivered:,}",
            f"{line.median * 1000:.0f} ms",
            f"{line.slowest * 1000:,.0f} ms",
            str(line.returned),
            good(line.lost),
            style="bold" if now else None,
        )
    return table


def replicas(places: Sequence[Place]) -> Table:
    """Return a table of the replicas."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("replica", min_width=24)
    for name in ("pid", "state", "connections", "delivered"):
        table.add_column(name, justify="right", min_width=9)
    for place in places:
        pid = str(place.replica.pid) if place.replica and place.state != "down" else ""
        colour = {"up": "green", "down": "red", "killed": "red"}.get(place.state)
        table.add_row(
            place.name,
            pid,
            Text(place.state, style=colour or "yellow"),
            f"{place.connections:,}",
            f"{place.delivered:,}",
        )
    return table


def totals(tally: Tally) -> Table:
    """Return a table of the totals, on which the result depends."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    figures: dict[str, str | Text] = {
        "connected": f"{tally.connected} of {tally.clients}",
        "published": f"{tally.published:,}",
        "delivered": f"{tally.delivered:,}",
        "came back": f"{tally.returned:,}",
        "told": f"{tally.told:,}",
        "lost": good(tally.lost),
        "duplicated": good(tally.duplicated),
        "reordered": good(tally.reordered),
    }
    for name in figures:
        table.add_column(name, justify="right")
    table.add_row(*figures.values())
    return table


def good(count: int) -> Text:
    """Return a number as text: green for zero, else red."""
    return Text(f"{count:,}", style="green" if count == 0 else "bold red")
