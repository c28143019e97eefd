"""The command line: run the scenarios, read results, compare them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from labserver.errors import LabError
from labserver.load.figures import limit
from labserver.load.figures.compare import compare as compared
from labserver.load.figures.compare import doubts, side
from labserver.load.figures.require import parse
from labserver.load.figures.saved import Saved, Unreadable, load_all, read
from labserver.load.pictures.contrast import write_contrast
from labserver.load.pictures.limit import write_limit
from labserver.load.pictures.report import write_report
from labserver.load.run import pipeline
from labserver.load.run.finding import found
from labserver.load.run.suite import (
    Case,
    Outcome,
    chosen,
    new_folder,
    scenarios,
    worst,
)
from labserver.load.run.turns import complete, planned, rehearse

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
SECONDS_LIMIT, USERS_LIMIT, REPEATS_LIMIT = 600, 2000, 20
app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 everything arrived and the figures mean something, 1 "
    "something was lost or failed, or a requirement is not met, 3 nothing was "
    "delivered, 4 the generator was too busy for its figures to mean anything, "
    "2 wrong arguments. With several runs it is the worst of them. One scenario "
    "against a server of yours: locust -f loadtests --headless "
    "--host ws://127.0.0.1:8080 -u 30 -t 12s",
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


def sound(texts: list[str]) -> list[str]:
    """Return the requirements; raise BadParameter for a text that is none."""
    for text in texts:
        try:
            parse(text)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from None
    return texts


Require = Annotated[
    list[str],
    typer.Option(
        metavar="'p99<100ms'",
        callback=sound,
        help="Fail runs that do not meet this; may be repeated. Figures: p50, p95, "
        "p99, max, all.p99 (until everybody has it), delivered (%), lost, duplicated, "
        "reordered, announced, unanswered. "
        "'fanout:p99<100ms' is about one scenario.",
    ),
]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    scenario: Scenario = [],  # noqa: B006
    seconds: Seconds = None,
    users: Users = None,
    require: Require = [],  # noqa: B006
    as_json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the figures as JSON."),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write verdicts as JUnit XML, for a CI."),
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Run all scenarios on clusters of their own, in four minutes, and judge the runs.

    Without a command, the scenarios run one after the other, and a page
    with verdicts and pictures is written. All servers are stopped at the
    end. Load goes to this machine only.
    """
    if context.invoked_subcommand is None:
        required = [parse(each) for each in require]
        cases = chosen(scenario, seconds or 0, users or 0, required)
        pipeline.prepare(as_json, junit)
        folder = new_folder(results, "load")
        turns = [(folder, case) for case in cases]
        outcomes = complete(planned(turns, folder), folder)
        pipeline.write(outcomes, folder, as_json, junit)
        conclude(outcomes, folder)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder with runs.")],
) -> None:
    """Write report.html: the verdicts and the pictures of all runs in FOLDER.

    Of a folder that ab made: the comparison, and the pictures of both sides;
    of one that find-limit made: its curve.
    """
    if (folder / "A").is_dir() and (folder / "B").is_dir():
        path = write_contrast(side([folder / "A"]), side([folder / "B"]), folder)
    elif (folder / limit.FILE).is_file():
        path = write_limit(read(folder / limit.FILE), folder)
    else:
        path = write_report(load_all(folder), folder)
    print(f"report  {path}")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A run, or a folder with repeats.")],
    b: Annotated[Path, typer.Argument(help="The same for the other side.")],
) -> None:
    """Print the figures that differ between A and B by more than chance.

    Runs that are not VALID are not compared; then the exit status is theirs.
    """
    raise typer.Exit(show(side([a]), side([b])))


@app.command()
def ab(
    a: Annotated[str, typer.Option("--a", help="Arguments of `labserver serve`.")] = "",
    b: Annotated[str, typer.Option("--b", help="The same for the other side.")] = "",
    scenario: Annotated[
        str, typer.Option(metavar="NAME", help="Scenario to compare them with.")
    ] = "fanout",
    repeats: Annotated[
        int, typer.Option(min=2, max=REPEATS_LIMIT, help="Runs of each side.")
    ] = 5,
    seconds: Seconds = 8,
    users: Users = None,
    results: Results = Path("results"),
) -> None:
    """Compare two servers with different settings, in turns: A B B A A B.

    For example: ab --a "--outbox-limit 65536" --b "--without backpressure".
    Five runs of each side are the fewest that can tell a difference from
    chance. A run whose generator was too busy is made again, at most as often
    as --repeats says.
    """
    if not a and not b:
        raise typer.BadParameter("ab needs --a or --b: arguments that differ")
    known([scenario])
    case = chosen([scenario], seconds or 0, users or 0)[0]
    sides = {"A": with_server(case, a), "B": with_server(case, b)}
    complete(rehearse([("--a", sides["A"]), ("--b", sides["B"])]))
    folder = new_folder(results, "ab")
    for name in sides:
        (folder / name).mkdir()
    turns = [
        (folder / name, sides[name])
        for repeat in range(repeats)
        for name in ("AB" if repeat % 2 == 0 else "BA")
    ]
    outcomes = complete(planned(turns, folder, repeats), folder)
    codes = [each.code for each in outcomes]
    one, other = (side([folder / name]) for name in sides)
    codes.append(show(one, other))
    print(f"report  {write_contrast(one, other, folder)}")
    sys.exit(worst(codes))


@app.command("find-limit")
def find_limit(
    require: Require = ["p99<100ms"],  # noqa: B006
    server: Annotated[str, typer.Option(help="Arguments of `labserver serve`.")] = "",
    replicas: Annotated[
        int, typer.Option(min=1, max=16, help="Servers that members are spread over.")
    ] = 1,
    users: Annotated[
        int, typer.Option(min=1, max=USERS_LIMIT, help="Members of the room.")
    ] = 100,
    seconds: Annotated[
        int, typer.Option(min=3, max=SECONDS_LIMIT, help="Seconds of each run.")
    ] = 8,
    least: Annotated[
        float, typer.Option(min=limit.LEAST, max=limit.MOST, help="Lowest rate.")
    ] = limit.LEAST,
    most: Annotated[
        float, typer.Option(min=limit.LEAST, max=limit.MOST, help="Highest rate.")
    ] = limit.MOST,
    minutes: Annotated[
        float, typer.Option(min=0.2, max=120, help="Time for all runs.")
    ] = 5.0,
    results: Results = Path("results"),
) -> None:
    """Find the highest rate at which a cluster still keeps its promise.

    One publisher sends to all members of a room, at rates that are found by
    bisection: everything must arrive, --require must be met, and the
    generator must be fast enough to know. Writes a curve, a page and
    limit.json. Exit status: 0 the limit is known, 1 not even the lowest rate
    holds, 4 the generator reached its own limit first.
    """
    if least > most:
        raise typer.BadParameter("--least is more than --most")
    required = [parse(each) for each in require]
    scenario = "fanout" if replicas == 1 else "replicas"
    case = with_server(chosen([scenario], seconds, users, required)[0], server)
    case = replace(case, rate=users, replicas=replicas, fault="", variant="")
    case = replace(case, steps=0, locust=("--no-pictures",))
    complete(rehearse([("--server", case)]))
    folder = new_folder(results, "limit")
    result = complete(found(case, folder, minutes, least, most), folder)
    print(result["sentence"])
    print(f"report  {write_limit(result, folder)}")
    sys.exit(result["status"])


def with_server(case: Case, arguments: str) -> Case:
    """Return the case with further arguments of ``labserver serve``."""
    try:
        return replace(case, server=(*case.server, *shlex.split(arguments)))
    except ValueError as exc:
        raise typer.BadParameter(f"{arguments!r}: {exc}") from None


def conclude(outcomes: Sequence[Outcome], folder: Path) -> NoReturn:
    """Write the report, print what failed and its path, exit with the worst status."""
    for each in outcomes:
        if each.saved is None:
            print(
                f"loadtests: {each.case.name} did not run, see "
                f"{folder / each.case.scenario}.log",
                file=sys.stderr,
            )
        elif each.saved.summary["exit_code"]:
            summary = each.saved.summary
            print(f"{summary['verdict']}  {each.case.name}: {reasons(summary)}")
    runs = [each.saved for each in outcomes if each.saved is not None]
    if runs:
        print(f"report  {write_report(runs, folder)}")
    sys.exit(worst([each.code for each in outcomes]))


def reasons(summary: Mapping[str, Any]) -> str:
    return "; ".join(map(str, summary["reasons"]))


def show(a: Sequence[Saved], b: Sequence[Saved]) -> int:
    """Print a comparison; return the exit status."""
    found = compared(a, b)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, justify in (
        *(("scenario", "left"), ("figure", "left")),
        *(("A", "right"), ("B", "right"), ("", "left")),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    last = ""
    for row in found.rows:
        table.add_row(
            row.scenario if row.scenario != last else "",
            row.figure,
            row.a.shown(row.digits),
            row.b.shown(row.digits),
            row.verdict,
        )
        last = row.scenario
    console = Console(width=None if sys.stdout.isatty() else 120)
    if found.rows:
        console.print(table, highlight=False)
        print(
            f"A: {len(a)} runs, B: {len(b)} runs; minimum to maximum. {a[0].machine}."
        )
    for sentence in found.refused:
        print(sentence)
    for note in filter(None, (found.advice(), *doubts(a, b))):
        print(f"note: {note}")
    return worst(found.codes)


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
