"""``labserver serve``, ``cluster``, ``demo`` and ``faults``: they run until ended."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from labserver.cli.app import Stage, app, fail
from labserver.cli.flags import settings_flags
from labserver.errors import SettingsError
from labserver.processes.cluster import running_cluster
from labserver.processes.launch import NotListening
from labserver.processes.serving import run, serve_until_signal
from labserver.redis.reach import check
from labserver.server import logs
from labserver.settings import from_environment, secret_of, unknown_variables
from labserver.stages import LAST, STAGES

log = logging.getLogger("labserver")


@app.command()
@settings_flags
def serve(
    *,
    stage: Stage = LAST,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")
    ] = 8080,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave a stage out; may be repeated.", metavar="STAGE"),
    ] = None,
    mistake: Annotated[
        str | None,
        typer.Option(
            help="Run with a well-known mistake; labserver mistakes lists them.",
            metavar="NAME",
        ),
    ] = None,
    given: dict[str, Any],
) -> None:
    """Run a server, up to and including a stage.

    The server prints one line when it listens. SIGTERM or Ctrl-C drains it:
    all clients are told to reconnect, and it exits with status 0.

    LAB_SECRET, or the file that LAB_SECRET_FILE names, signs and checks tokens;
    without it a random secret is used, and a token is printed. A limit of 0 means
    no limit.
    """
    settings = from_environment(**given)
    logs.start(settings.log_format, settings.log_level)
    for name in unknown_variables():
        log.warning("there is no setting %s", name)
    run(serve_until_signal(stage, host, port, without or [], settings, mistake))


@app.command()
def cluster(
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Replicas.")] = 3,
    stage: Stage = LAST,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port of the first; others follow. 0: free ports."
        ),
    ] = 0,
    redis: Annotated[
        str, typer.Option(help="URL of a Redis; default: an embedded one.")
    ] = "",
) -> None:
    """Run several replicas on one Redis, until Ctrl-C."""
    if STAGES.get(stage) is None or STAGES[stage].number < STAGES["broker"].number:
        fail(f"replicas need stage broker or a later one to work together, not {stage}")
    run(_cluster(replicas, stage, port, redis))


async def _cluster(count: int, stage: str, port: int, redis: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    secret = secret_of()
    if redis:
        await check(redis)  # a replica would wait for it
    try:
        async with running_cluster(
            count, stage, secret=secret, redis=redis, first_port=port
        ) as running:
            for replica in running.replicas:
                print(replica.url)
            print(f"redis {'given' if redis else running.redis}")
            print(f"token {running.replicas[0].token()}", flush=True)
            ends = [
                asyncio.create_task(each.process.wait()) for each in running.replicas
            ]
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait([*ends, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                print("a replica ended by itself: stopping", file=sys.stderr)
            for task in (*ends, stopped):
                task.cancel()
    except NotListening as exc:
        raise SettingsError(str(exc).removeprefix("labserver: ")) from None


@app.command("demo")
def demo_(
    clients: Annotated[
        int, typer.Option(min=2, max=1000, help="Clients that publish and listen.")
    ] = 60,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.5, max=600, help="Seconds that the clients go on after each step."
        ),
    ] = 8.0,
    steps: Annotated[
        str,
        typer.Option(
            help="Some of fine, kill, restart, freeze, stall, rolling, "
            "comma-separated. Default: all."
        ),
    ] = "",
    router: Annotated[
        bool, typer.Option(help="Put HAProxy in front, if it is installed.")
    ] = True,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep everything running until Ctrl-C.")
    ] = False,
) -> None:
    """Break a cluster on purpose, and show that its clients lose nothing.

    Runs three replicas on an embedded Redis, for about a minute. Exits with
    status 0 if no client lost a message or got one twice, else with 1.
    """
    from labserver import (
        demo,  # and the judge with it: half of the start of all commands
    )

    wanted = demo.chosen_steps(steps)
    status = run(
        demo.demo(
            wanted,
            clients=clients,
            seconds=seconds,
            router=router,
            keep=keep,
            console=Console(),
        )
    )
    raise typer.Exit(status)


@app.command("faults")
def faults_(
    to: Annotated[
        str, typer.Option(help="HOST:PORT of the server.", metavar="HOST:PORT")
    ] = "127.0.0.1:8080",
    listen: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")
    ] = 0,
) -> None:
    """Run a proxy in front of a server that can break the network.

    It reads commands from standard input, such as: freeze down, thaw, delay
    0.2, throttle 10000 up, cut, reset, refuse, accept, quit. It ends with
    quit or Ctrl-C.
    """
    host, _, port = to.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        fail(f"--to must be HOST:PORT, not {to[:60]!r}")
    run(_faults(host, int(port), listen))


async def _faults(host: str, port: int, listen: int) -> None:
    from labserver.processes import faults

    async with faults.proxy(host, port, listen) as network:
        print(f"listening on {network.url} (to {host}:{port})", flush=True)
        print(faults.COMMANDS, flush=True)
        if sys.stdin is not None:  # else it is closed, and its number may be reused
            async for line in faults.commands(sys.stdin.fileno()):
                if line.strip() == "quit":
                    return
                if not line.strip():
                    continue
                try:
                    print(faults.obey(network, line), flush=True)
                except SettingsError as exc:
                    print(exc, flush=True)
        await asyncio.Event().wait()  # standard input has ended: keep the last state
