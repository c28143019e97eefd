"""The command line: run the scenarios, read results, compare them."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from labserver.errors import LabError
from labserver.load.figures.compare import compare as compared
from labserver.load.figures.compare import doubts, side
from labserver.load.figures.saved import Unreadable, load, load_all
from labserver.load.pictures.report import write_report
from labserver.load.run.suite import (
    Case,
    Outcome,
    chosen,
    estimate,
    new_folder,
    run,
    scenarios,
    worst,
)

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
SECONDS_LIMIT, USERS_LIMIT, REPEATS_LIMIT = 600, 2000, 20
app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 everything arrived and the figures mean something, 1 "
    "something was lost or failed, 3 nothing was delivered, 4 the generator was too "
    "busy for its figures to mean anything, 2 wrong arguments. With several runs it is "
    "the worst of them. One scenario against a server of yours: locust -f loadtests "
    "--headless --host ws://127.0.0.1:8080 -u 30 -t 12s",
)
Results = Annotated[Path, typer.Option(help="Folder in which to make a new folder.")]
Seconds = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=SECONDS_LIMIT,
        show_default=False,
        help="Seconds of load in each scenario. Default: the scenario's own.",
    ),
]
Users = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=USERS_LIMIT,
        show_default=False,
        help="Members in each scenario. Default: the scenario's own.",
    ),
]


def known(names: list[str]) -> list[str]:
    """Return the names; raise BadParameter for a scenario that does not exist."""
    for name in names:
        if name not in scenarios():
            raise typer.BadParameter(
                f"there is no scenario {name!r}: choose of {', '.join(scenarios())}"
            )
    return names


Scenario = Annotated[
    list[str],
    typer.Option(
        metavar="NAME",
        callback=known,
        help=f"Run only this one; may be repeated. One of {', '.join(scenarios())}.",
    ),
]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    scenario: Scenario = [],  # noqa: B006
    seconds: Seconds = None,
    users: Users = None,
    results: Results = Path("results"),
) -> None:
    """Run all scenarios on clusters of their own, in four minutes, and judge the runs.

    Without a command, the scenarios run one after the other, and a page
    with verdicts and pictures is written. All servers are stopped at the
    end. Load goes to this machine only.
    """
    if context.invoked_subcommand is None:
        cases = chosen(scenario, seconds or 0, users or 0)
        folder = new_folder(results, "load")
        outcomes = complete(all_of(cases, folder))
        conclude(outcomes, folder)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder with runs.")],
) -> None:
    """Write report.html: the verdicts and the pictures of all runs in FOLDER."""
    print(f"report  {write_report(load_all(folder), folder)}")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A run, or a folder with repeats.")],
    b: Annotated[Path, typer.Argument(help="The same for the other side.")],
) -> None:
    """Print the figures that differ between A and B by more than their repeats do."""
    show(side([a]), side([b]))


@app.command()
def ab(
    a: Annotated[str, typer.Option("--a", help="Arguments of `labserver serve`.")] = "",
    b: Annotated[str, typer.Option("--b", help="The same for the other side.")] = "",
    scenario: Annotated[
        str, typer.Option(metavar="NAME", help="Scenario to compare them with.")
    ] = "fanout",
    repeats: Annotated[
        int, typer.Option(min=2, max=REPEATS_LIMIT, help="Runs of each side.")
    ] = 3,
    seconds: Seconds = 8,
    users: Users = None,
    results: Results = Path("results"),
) -> None:
    """Compare two servers with different settings, in turns: A B B A A B.

    For example: ab --a "--outbox-limit 65536" --b "--without backpressure"
    """
    if not a and not b:
        raise typer.BadParameter("ab needs --a or --b: arguments that differ")
    known([scenario])
    case = chosen([scenario], seconds or 0, users or 0)[0]
    folder = new_folder(results, "ab")
    sides = [(folder / "A", a), (folder / "B", b)]
    for where, _ in sides:
        where.mkdir()
    turns = [
        (where, with_server(case, arguments))
        for repeat in range(repeats)
        for where, arguments in (sides if repeat % 2 == 0 else sides[::-1])
    ]
    outcomes = complete(in_turns(turns))
    show(side([folder / "A"]), side([folder / "B"]))
    print(f"results {folder}")
    sys.exit(worst([each.code for each in outcomes]))


def with_server(case: Case, arguments: str) -> Case:
    """Return the case with further arguments of ``labserver serve``."""
    try:
        return replace(case, server=(*case.server, *shlex.split(arguments)))
    except ValueError as exc:
        raise typer.BadParameter(f"{arguments!r}: {exc}") from None


def complete(work: Coroutine[Any, Any, list[Outcome]]) -> list[Outcome]:
    """Run to the end, or cancel and clean up on Ctrl-C and SIGTERM."""

    async def guarded() -> list[Outcome]:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        sys.exit(143)


async def all_of(cases: Sequence[Case], folder: Path) -> list[Outcome]:
    return await in_turns([(folder, case) for case in cases])


async def in_turns(turns: Sequence[tuple[Path, Case]]) -> list[Outcome]:
    """Run one case after the other, and show the progress."""
    outcomes: list[Outcome] = []
    console = Console(stderr=True)
    total = sum(estimate(case) for _, case in turns)
    columns = (TextColumn("{task.description:<26}"), BarColumn(None), Left())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=total)
        done = 0.0
        for number, (folder, case) in enumerate(turns, 1):
            progress.update(bar, description=f"{number}/{len(turns)} {case.name}")
            clock = asyncio.create_task(advance(progress, bar, done, estimate(case)))
            try:
                outcome = await run(case, folder)
            finally:
                clock.cancel()
            done += estimate(case)
            progress.update(bar, completed=done)
            outcomes.append(outcome)
            console.print(
                f"{number}/{len(turns)}  {case.name:<28} {outcome.word.lower():<18}"
                f"{outcome.seconds:5.0f} s",
                highlight=False,
            )
    return outcomes


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


def conclude(outcomes: Sequence[Outcome], folder: Path) -> NoReturn:
    """Write the report, print its path, and exit with the worst status."""
    runs = []
    for each in outcomes:
        if each.folder is not None:
            with contextlib.suppress(Unreadable):
                runs.append(load(each.folder))
    for each in outcomes:
        if each.folder is None:
            print(
                f"loadtests: {each.case.name} did not run, see "
                f"{folder / each.case.scenario}.log",
                file=sys.stderr,
            )
    for run_ in runs:
        if run_.summary["exit_code"]:
            print(f"{run_.scenario}: {'; '.join(run_.summary['reasons'])}")
    if runs:
        print(f"report  {write_report(runs, folder)}")
    sys.exit(worst([each.code for each in outcomes]))


def show(a: Sequence[Any], b: Sequence[Any]) -> None:
    """Print a comparison."""
    rows = compared(a, b)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, justify in (
        *(("scenario", "left"), ("figure", "left")),
        *(("A", "right"), ("B", "right"), ("", "left")),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    last = ""
    for row in rows:
        table.add_row(
            row.scenario if row.scenario != last else "",
            row.figure,
            row.a.shown(row.digits),
            row.b.shown(row.digits),
            row.verdict,
        )
        last = row.scenario
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table, highlight=False)
    print(f"A: {len(a)} runs, B: {len(b)} runs; minimum to maximum. {a[0].machine}.")
    for doubt in doubts(a, b):
        print(f"note: {doubt}")


def fail(text: str) -> NoReturn:
    print(f"loadtests: {text}", file=sys.stderr)
    sys.exit(2)


def start() -> None:
    """Run the command line; an error prints one line and exits with 2."""
    try:
        status = app(prog_name="python -m loadtests", standalone_mode=False)
    except (Unreadable, LabError) as exc:
        fail(" ".join(str(exc).split()))
    except UsageError as exc:
        fail(f"{exc.format_message()} (see --help)")  # type: ignore[attr-defined]
    except OSError as exc:
        fail(f"{exc.filename or ''}: {exc.strerror or exc}".lstrip(": "))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
