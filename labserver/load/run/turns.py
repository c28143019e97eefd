"""Cases one after the other, with a bar of progress and a line for each run."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from labserver.errors import SettingsError
from labserver.load.figures.plan import begin, finish, set_aside, unfinished
from labserver.load.figures.require import seen
from labserver.load.figures.trust import MOSTLY, doubts
from labserver.load.figures.verdict import EXIT_INVALID
from labserver.load.run.owned import owned
from labserver.load.run.pipeline import own_share
from labserver.load.run.suite import Case, Outcome, estimate, run
from labserver.processes.launch import NotListening

T = TypeVar("T")

HEAD = (
    f"{'':<6}{'':<27}{'delivered':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}"
    f"{'all p99':>9}{'took':>7}  verdict"
)
STYLES = {0: "green", 4: "yellow"}


def complete(work: Coroutine[Any, Any, T], folder: Path | None = None) -> T:
    """Run to the end, or cancel and clean up on Ctrl-C, SIGTERM and SIGHUP.

    After an interruption, say what is in the folder.
    """

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(guarded())
    except (asyncio.CancelledError, KeyboardInterrupt) as exc:
        if folder is not None:
            print(
                f"loadtests: {unfinished(folder)}; `python -m loadtests report "
                f"{folder}` shows them",
                file=sys.stderr,
            )
        sys.exit(143 if isinstance(exc, asyncio.CancelledError) else 130)


async def planned(
    turns: Sequence[tuple[Path, Case]], folder: Path, spare: int = 0
) -> list[Outcome]:
    """Run the cases in turns; record in ``folder`` whether all of them were run.

    Args:
        turns: Folder and case of each run.
        folder: Folder of the plan.
        spare: Runs that may be made again because the generator was too busy.

    """
    begin(folder, [case.name for _, case in turns])
    outcomes = await in_turns(turns, spare)
    finish(folder)
    return outcomes


async def rehearse(sides: Sequence[tuple[str, Case]]) -> None:
    """Start and stop the server of each side, so that a mistake is found at once.

    Raises:
        SettingsError: A server does not start; the message names the option.

    """
    with Console(stderr=True).status("trying the servers"):
        for option, case in sides:
            try:
                async with owned(1, *case.server):
                    pass
            except NotListening as exc:
                said = str(exc).removeprefix("labserver: ")
                raise SettingsError(f"{option}: {said}") from None


async def in_turns(turns: Sequence[tuple[Path, Case]], spare: int = 0) -> list[Outcome]:
    """Run one case after the other; show the progress and the figures."""
    outcomes: list[Outcome] = []
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 120  # a log has no narrow window
    total = sum(estimate(case) for _, case in turns)
    columns = (TextColumn("{task.description:<26}"), BarColumn(None), Left())
    console.print(HEAD, style="dim")
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=total)
        done, marked = 0.0, False
        for number, (folder, case) in enumerate(turns, 1):
            place = f"{number}/{len(turns)}"
            progress.update(bar, description=f"{place} {case.name}")
            while True:
                clock = asyncio.create_task(
                    advance(progress, bar, done, estimate(case))
                )
                try:
                    outcome = await run(case, folder)
                finally:
                    clock.cancel()
                text = line(place, outcome)
                marked = marked or "*" in text.plain
                console.print(text)
                if not spare or outcome.code != EXIT_INVALID or outcome.saved is None:
                    break
                spare -= 1
                set_aside(outcome.saved.folder)
            done += estimate(case)
            progress.update(bar, completed=done)
            outcomes.append(outcome)
    if marked:
        console.print("* mostly the generator's own", style="dim")
    return outcomes


def line(place: str, outcome: Outcome) -> Text:
    """Return the figures and the verdict of a run in a line."""
    text = Text(f"{place:<6}{outcome.case.name:<27}")
    saved = outcome.saved
    share = seen(saved.record, "delivered") if saved else None
    text.append(f"{'' if share is None else shown_share(share):>9}")
    for name in ("p50", "p95", "p99", "all.p99"):
        found = seen(saved.record, name) if saved else None
        own = saved is not None and own_share(saved.record, name) >= MOSTLY
        said = "-" if found is None else shown_ms(found) + ("*" if own else "")
        text.append(f"{said:>9}", "yellow" if own else "")
    word = outcome.word.lower() if outcome.code == 0 else outcome.word
    text.append(f"{outcome.seconds:5.0f} s  ")
    text.append(word, style=STYLES.get(outcome.code, "red"))
    if saved and not outcome.code and doubts(saved.record):
        text.append(", with doubts", style="yellow")
    return text


def shown_ms(microseconds: float) -> str:
    value = microseconds / 1000
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def shown_share(percent: float) -> str:
    """Return a share as text; ``100 %`` only if everything arrived."""
    return "100 %" if percent == 100 else f"{min(99.999, percent):.3f} %"


async def advance(progress: Progress, bar: Any, done: float, most: float) -> None:
    """Move the bar with the clock, at most to the estimated end of the case."""
    began = time.monotonic()
    while True:
        elapsed = min(time.monotonic() - began, most)
        progress.update(bar, completed=done + elapsed)
        await asyncio.sleep(0.2)


class Left(ProgressColumn):
    """A column with the estimated time left."""

    def render(self, task: Task) -> Text:
        left = max(0, round((task.total or 0) - task.completed))
        return Text(f"{left // 60}:{left % 60:02} left" if left else "soon done")
