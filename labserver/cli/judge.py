"""``labserver judge`` and ``starter``: a server, or a client, of your own.

The judge is imported when it is asked for: other commands start in half the time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from labserver.cli.app import AsJson, app, console_of
from labserver.processes.serving import run
from labserver.stages import LAST, STAGES

LANGUAGES = ("python", "node", "stdlib")  # of the starters


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
    LAB_SECRET, LAB_REDIS_URL and the settings that a check needs small. It is
    ready when its port answers. From stage auth on, a URL needs LAB_SECRET, the
    secret of its tokens.

    With --client the command is a client, and is started many times: it connects
    to LAB_URL (also {url} in its arguments) with LAB_TOKEN and joins LAB_ROOM.
    When its connection breaks it comes back, after delays of LAB_BACKOFF_FIRST to
    LAB_BACKOFF_CAP.

    Ends with status 0 when all promises up to --stage hold, with 1 when one is
    broken, and with 2 when the server cannot be judged.
    """
    from labserver.cli import judging, verdict
    from labserver.judge.junit import write
    from labserver.judge.page import page

    console = console_of(as_json)
    try:
        found = run(
            judging.judged(
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
    except judging.Stopped as exc:
        print(f"labserver: {exc}", file=sys.stderr)
        raise typer.Exit(exc.status) from None
    verdict.say(found, console, target)
    if as_json:
        print(verdict.as_json(found))
    if junit:
        write(junit, verdict.as_junit(found))
    if html:
        write(html, page(found))
    for file in filter(None, (junit, html)):
        console.print(f"written: {file}", markup=False, soft_wrap=True)
    raise typer.Exit(found.status)


@app.command("starter")
def starter_(
    language: Annotated[
        str, typer.Argument(help="One of: " + ", ".join(LANGUAGES) + ".")
    ],
) -> None:
    """Print the smallest server that keeps the first promise, to go on from."""
    from labserver.judge.starter import starter

    print(starter(language), end="")
