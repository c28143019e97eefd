"""What ``labserver judge`` does: choose the checks, run them, tell each finding."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

from labserver.cli.verdict import dashed
from labserver.errors import SettingsError
from labserver.judge import PROMISES
from labserver.judge.clients import CHECKS, clients
from labserver.judge.outside import INSIDE, Outside, commanded, remote
from labserver.judge.run import Check, Finding, Verdict, checks_up_to, judge
from labserver.processes.reach import NotThisMachine, resolve
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
