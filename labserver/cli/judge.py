"""``labserver judge`` and ``starter``: a server, or a client, of your own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape

from labserver.cli.app import AsJson, app, console_of
from labserver.cli.verdict import as_json as as_json_text
from labserver.cli.verdict import as_junit, dashed, say
from labserver.errors import SettingsError
from labserver.judge import PROMISES
from labserver.judge.clients import CHECKS, clients
from labserver.judge.junit import write
from labserver.judge.outside import INSIDE, Outside, commanded, remote
from labserver.judge.page import page
from labserver.judge.run import Check, Finding, Verdict, checks_up_to, judge
from labserver.judge.starter import STARTERS
from labserver.judge.starter import starter as starter_of
from labserver.processes.reach import NotThisMachine, resolve
from labserver.processes.serving import run
from labserver.settings import secret_of
from labserver.stages import LAST, STAGES, included

MARKS = {"kept": "[green]✓[/]", "broken": "[red]✗[/]", "skipped": "[dim]-[/]"}
INSIDES = "what only the inside of the lab's own server shows is skipped"


class Stopped(Exception):
    """A signal ended the judgement; all that it started is ended, too."""

    def __init__(self, number: int) -> None:
        super().__init__("stopped: all that was started is ended")
        self.status = 128 + number


def chosen(stage: str, only: Sequence[str]) -> list[tuple[str, Check]]:
    """Return the checks that are asked for.

    Raises:
        SettingsError: There is no such stage, or no such check.

    """
    included(stage)
    checks = checks_up_to(PROMISES, stage)
    if not only:
        return checks
    wanted = {name.replace("-", "_") for name in only}
    every = {check.__name__: name for name, all_ in PROMISES.items() for check in all_}
    for name in wanted:
        if name not in every:
            raise SettingsError(f"there is no check {dashed(name)!r}: {listed(checks)}")
        if STAGES[every[name]].number > STAGES[stage].number:
            raise SettingsError(f"{name} is a check of stage {every[name]}: --stage")
    return [pair for pair in checks if pair[1].__name__ in wanted]


def listed(checks: Sequence[tuple[str, Check]]) -> str:
    """Return the names of checks, as ``--only`` takes them."""
    return ", ".join(dashed(check.__name__) for _, check in checks)


def of_clients(only: Sequence[str]) -> list[tuple[str, Check]]:
    """Return the checks of clients that are asked for.

    Raises:
        SettingsError: There is no such check.

    """
    pairs = [(LAST, check) for check in CHECKS]
    every = {check.__name__: check for check in CHECKS}
    wanted = [name.replace("-", "_") for name in only] or list(every)
    for name in wanted:
        if name not in every:
            raise SettingsError(f"there is no check {dashed(name)!r}: {listed(pairs)}")
    return [(LAST, every[name]) for name in every if name in wanted]


def world_of(
    target: Sequence[str], stage: str, **options: Any
) -> contextlib.AbstractAsyncContextManager[Outside]:
    """Return the world of a command, or of URLs.

    Raises:
        SettingsError: A URL is not this machine's, or its secret is missing.

    """
    if not all(each.startswith(("ws://", "wss://")) for each in target):
        return commanded(target, stage, **options)
    for url in target:
        if urlsplit(url).query:
            raise SettingsError("a URL to judge has no query: the judge has tokens")
        try:
            resolve(url)
        except NotThisMachine as exc:
            raise SettingsError(f"{exc}; LAB_LOAD_HOSTS names others") from None
        except (OSError, ValueError) as exc:
            raise SettingsError(f"{url[:80]} cannot be reached: {exc}") from None
    secret = secret_of()
    if not secret and STAGES[stage].number >= STAGES["auth"].number:
        raise SettingsError(
            "LAB_SECRET is not set: the judge signs tokens with the server's secret"
        )
    options.pop("start_timeout")
    return remote(target, stage, secret, **options)


async def judged(
    target: Sequence[str],
    stage: str,
    only: Sequence[str],
    console: Console,
    client: bool = False,
    **options: Any,
) -> Verdict:
    """Judge a command or URLs, and tell each finding as it comes.

    Raises:
        CannotJudge: There is nothing to judge.
        SettingsError: What is asked for cannot be done.
        Stopped: By SIGINT (Ctrl-C), SIGTERM or SIGHUP.

    """
    checks = of_clients(only) if client else chosen(stage, only)
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    told_to_stop: list[int] = []
    inside: set[str] = set()  # stages of which it was said already

    def stop(number: int) -> None:
        if not told_to_stop:  # a second one would break off the ending
            told_to_stop.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    with console.status("starting") as status:

        def begun(name: str, check: Check) -> None:
            status.update(f"{name}: {check.__name__.replace('_', ' ')}")

        def told(finding: Finding) -> None:
            if finding.seen == INSIDE:
                if finding.stage not in inside:
                    inside.add(finding.stage)
                    console.print(f"- [dim]{finding.stage:<12} {INSIDES}[/]")
                return
            console.print(
                f"{MARKS[finding.outcome]} [dim]{finding.stage:<12}[/] "
                f"{escape(finding.says)} [dim]{finding.seconds:.1f} s[/]",
                soft_wrap=True,
            )
            if finding.seen:
                style = "red" if finding.outcome == "broken" else "dim"
                text = escape(finding.seen)
                if finding.outcome == "broken":
                    text = f"{dashed(finding.check)}: {text}"
                console.print(f"  [{style}]{text}[/]", soft_wrap=True)

        if client:
            opened: Any = clients(target, **options)
        else:
            opened = world_of(target, stage, **options)
        try:
            async with opened as world:
                return await judge(world, checks, told, begun)
        except asyncio.CancelledError:
            if told_to_stop:
                raise Stopped(told_to_stop[0]) from None
            raise


@app.command("judge")
def judge_(
    target: Annotated[
        list[str],
        typer.Argument(
            help="After --, the command that starts the server; or ws:// URLs of "
            "servers that run.",
            metavar="[--] COMMAND... | URL...",
        ),
    ],
    stage: Annotated[
        str, typer.Option(help="Last stage to judge: " + ", ".join(STAGES) + ".")
    ] = LAST,
    client: Annotated[
        bool, typer.Option("--client", help="The command is a client, not a server.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="One check by its name, as a red line shows it; may be given again.",
            metavar="CHECK",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="What chance begins with.")] = 1,
    patience: Annotated[
        float, typer.Option(min=0.5, max=60, help="Seconds to wait for what must come.")
    ] = 10.0,
    start_timeout: Annotated[
        float, typer.Option(min=0.5, max=600, help="Seconds until the port answers.")
    ] = 20.0,
    as_json: AsJson = False,
    junit: Annotated[
        Path | None, typer.Option(help="Write JUnit XML there.", metavar="FILE")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with pictures there.", metavar="FILE"),
    ] = None,
) -> None:
    """Say which promises a server keeps: yours, in any language.

    A command is started with PORT (also {port} in its arguments), LAB_STAGE,
    LAB_SECRET, LAB_REDIS_URL and the settings that a check needs small, and is ready
    when its port answers. A URL needs LAB_SECRET, the secret of its tokens, from stage
    auth on.

    With --client the command is a client, and is started many times: it connects to
    LAB_URL (also {url} in its arguments) with LAB_TOKEN, joins LAB_ROOM, and comes back
    when its connection breaks, after delays of LAB_BACKOFF_FIRST to LAB_BACKOFF_CAP.

    Ends with status 0 when all promises up to --stage hold, with 1 when one is broken,
    and with 2 when the server cannot be judged.
    """
    console = console_of(as_json)
    try:
        verdict = run(
            judged(
                target,
                stage,
                only or [],
                console,
                client,
                seed=seed,
                patience=patience,
                start_timeout=start_timeout,
            )
        )
    except Stopped as exc:
        print(f"labserver: {exc}", file=sys.stderr)
        raise typer.Exit(exc.status) from None
    say(verdict, console, target)
    if as_json:
        print(as_json_text(verdict))
    if junit:
        write(junit, as_junit(verdict))
    if html:
        write(html, page(verdict))
    for file in filter(None, (junit, html)):
        console.print(f"written: {file}", markup=False, soft_wrap=True)
    raise typer.Exit(verdict.status)


@app.command()
def starter(
    language: Annotated[
        str, typer.Argument(help="One of: " + ", ".join(STARTERS) + ".")
    ],
) -> None:
    """Print the smallest server that keeps the first promise, to go on from."""
    print(starter_of(language), end="")
