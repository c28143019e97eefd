"""The command line."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from labserver import __version__, demo
from labserver.cli import judging
from labserver.cli.flags import settings_flags
from labserver.cli.folder import prepare
from labserver.contract.schema import asyncapi
from labserver.contract.tokens import issue
from labserver.errors import LabError, RedisMissing, SettingsError
from labserver.judge.junit import write
from labserver.judge.page import page
from labserver.judge.starter import STARTERS
from labserver.judge.starter import starter as starter_of
from labserver.mistakes import MISTAKES
from labserver.processes import faults
from labserver.processes.cluster import running_cluster
from labserver.processes.launch import NotListening
from labserver.processes.serving import run, serve_until_signal
from labserver.redis.embedded import find_redis
from labserver.redis.reach import check
from labserver.server import logs
from labserver.settings import from_environment, secret_of, unknown_variables
from labserver.stages import LAST, STAGES

GRADES = {"solved": "[green]✓[/]", "wrong": "[red]✗[/]", "empty": "[dim]○[/]"}
FIRST_CHAPTER = "00_start.ipynb"
# From the folder: the project is not in the package index, and a stranger's may be.
NOTEBOOKS = "pip install '.[notebooks]' in the project's folder"
log = logging.getLogger("labserver")
# Not exported by typer itself.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A real-time WebSocket server in seven stages, to read and to measure.",
    epilog="Start with: labserver serve --stage echo. Tokens are signed with "
    "LAB_SECRET; settings are flags or LAB_* variables.",
)
# Output to a file or pipe is 120 columns wide, so that a promise fits on its line.
table_out = Console(width=None if sys.stdout.isatty() else 120)


def main() -> None:
    """Run the command line; an error of the user prints one line and exits with 2."""
    try:
        status = app(prog_name="labserver", standalone_mode=False)
    except LabError as exc:
        fail(str(exc))
    except UsageError as exc:
        if text := exc.format_message():  # type: ignore[attr-defined]
            fail(f"{text} (see --help)")
        sys.exit(2)  # no command was given: typer has shown the help
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def fail(text: str) -> NoReturn:
    """Print what is wrong, and exit with status 2."""
    print(f"labserver: {text}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.")
    ] = False,
) -> None:
    if version:
        print(f"labserver {__version__}")
        raise typer.Exit


Stage = Annotated[str, typer.Option(help="Last stage: " + ", ".join(STAGES) + ".")]
Without = Annotated[
    list[str] | None,
    typer.Option(help="Leave a stage out; may be repeated.", metavar="STAGE"),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]


@app.command()
@settings_flags
def serve(
    *,
    stage: Stage = LAST,
    host: Host = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")
    ] = 8080,
    without: Without = None,
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
    without it a random secret is used, and a token is printed. A limit of 0 means no
    limit.
    """
    settings = from_environment(**given)
    logs.start(settings.log_format, settings.log_level)
    for name in unknown_variables():
        log.warning("there is no setting %s", name)
    run(serve_until_signal(stage, host, port, without or [], settings, mistake))


@app.command()
def stages(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the stages: number, name, file, lines, promise."""
    if as_json:
        rows = [
            {
                "number": each.number,
                "name": each.name,
                "file": each.file.name,
                "lines": each.lines,
                "promise": each.promise,
            }
            for each in STAGES.values()
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("#", "stage", "file", "lines", "promise", box=None, pad_edge=False)
    for each in STAGES.values():
        table.add_row(
            str(each.number), each.name, each.file.name, str(each.lines), each.promise
        )
    table_out.print(table)


@app.command()
def mistakes(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the mistakes: name, stage, what goes wrong, where it was seen.

    To run a server with one of them: labserver serve --mistake NAME.
    """
    if as_json:
        rows = [
            {
                "name": each.name,
                "stage": each.stage,
                "wrong": each.wrong,
                "seen": each.seen,
                "side": "server" if each.extend else "client",
            }
            for each in MISTAKES.values()
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("mistake", "stage", "what goes wrong", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for each in MISTAKES.values():
        where = "" if each.extend else " (client)"
        what = f"{escape(each.wrong)}\n[dim]Seen: {escape(each.seen)}.[/]"
        table.add_row(each.name, each.stage + where, what)
    table_out.print(table)


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
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
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
    console = judging.console_of(as_json)
    try:
        verdict = run(
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
    judging.say(verdict, console, target)
    if as_json:
        print(judging.as_json(verdict))
    if junit:
        write(junit, judging.as_junit(verdict))
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


@app.command()
def schema() -> None:
    """Print the wire contract as an AsyncAPI 3 document, JSON."""
    print(json.dumps(asyncapi(), indent=2))


@app.command()
def token(
    user: Annotated[str, typer.Option(help="User name in the token.")],
    rooms: Annotated[
        str | None,
        typer.Option(
            help="Rooms that it allows, comma-separated; team:* is a prefix. "
            "Default: every room."
        ),
    ] = None,
    ttl: Annotated[
        float, typer.Option(min=1, max=1e9, help="Seconds until it expires.")
    ] = 3600,
) -> None:
    """Print a token, signed with LAB_SECRET."""
    secret = secret_of()
    if not secret:
        fail("LAB_SECRET is not set: a token is signed with the server's secret")
    if not 1 <= len(user) <= 128 or not user.isprintable():
        fail("--user must have 1 to 128 printable characters")
    names = None
    if rooms is not None:
        names = [name.strip() for name in rooms.split(",") if name.strip()]
        if not names:  # an empty variable in a script must not allow every room
            fail("--rooms names no room; leave it out to allow every room")
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_.:-]{0,64}\*?", name):
                fail(f"{name[:70]!r} is not a room, nor a prefix that ends in *")
    print(issue(secret, user, names, ttl))


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


@app.command()
def lab(
    folder: Annotated[
        Path, typer.Argument(help="Where your copies of the chapters are.")
    ] = Path("workshop"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")
    ] = 8888,
    browser: Annotated[
        bool, typer.Option(help="Open a browser, if there is one.")
    ] = False,
) -> None:
    """Open JupyterLab on your copies of the chapters; it prints its URL.

    The copies are made once, without outputs, in FOLDER. What you change there stays.
    """
    if shutil.which("jupyter-lab", path=str(Path(sys.executable).parent)) is None:
        fail(f"JupyterLab is not installed: {NOTEBOOKS}")
    for each in prepare(_notebooks(), folder):
        print(each, file=sys.stderr)
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}"]
    command += [f"--LabApp.default_url=/lab/tree/{FIRST_CHAPTER}"]
    command += [f"--port={port}", "--ip=127.0.0.1"]
    command += [] if browser else ["--no-browser"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    os.execv(command[0], command)  # so that signals reach JupyterLab


@app.command()
def grade(
    folder: Annotated[
        Path, typer.Argument(help="A learner's folder, as labserver lab makes it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which tasks of which chapter are solved in a folder.

    What the learner wrote is run: grade only what you would run yourself. Takes a few
    minutes. Ends with status 0 when all is solved, else with 1.
    """
    try:
        from labserver.notebook import grading
    except ModuleNotFoundError as exc:
        fail(f"{exc.name} is not installed: {NOTEBOOKS}")
    chapters, grades = _notebooks(), list[grading.Grade]()
    console = judging.console_of(as_json)
    names = grading.chapters_in(chapters, folder)
    with console.status("grading") as status:
        for name in names:
            status.update(f"{name}: {len(grades)} tasks so far")
            grades += grading.graded(chapters, folder, name)
    if as_json:
        print(json.dumps([asdict(each) for each in grades], indent=2))
    else:
        table = Table("", "chapter", "task", "what was seen", box=None, pad_edge=False)
        for each in grades:
            mark = GRADES[each.outcome]
            table.add_row(mark, each.chapter, escape(each.task), escape(each.seen))
        table_out.print(table)
    solved = sum(each.outcome == "solved" for each in grades)
    console.print(f"{solved} of {len(grades)} tasks are solved")
    raise typer.Exit(0 if solved == len(grades) else 1)


def _notebooks() -> Path:
    for folder in (Path.cwd(), *Path(__file__).resolve().parents[2:3]):
        if (folder / "notebooks").is_dir():
            return folder / "notebooks"
    fail("there is no folder notebooks here: run this in a checkout of the project")


@app.command()
def doctor() -> None:
    """Check this machine: Python, Redis, file limits, ports.

    Exits with status 1 if Python is too old or Redis is missing.
    """
    rows = [_python(), _redis(), _files(), _port(8080), _port(8888)]
    table = Table("", "what", "here", box=None, pad_edge=False)
    for good, what, here in rows:
        table.add_row("[green]ok[/]" if good else "[red]no[/]", what, here)
    table_out.print(table)
    if not all(good for good, *_ in rows[:2]):
        raise typer.Exit(1)


def _python() -> tuple[bool, str, str]:
    good = sys.version_info >= (3, 11)
    return good, "Python", f"{platform.python_version()} ({sys.executable})"


def _redis() -> tuple[bool, str, str]:
    try:
        binary = find_redis()
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=5
        )
        version = next((w for w in said.stdout.split() if w.startswith("v=")), "?")
        return True, "Redis", f"{version.removeprefix('v=')} ({binary})"
    except (RedisMissing, OSError, subprocess.SubprocessError) as exc:
        return False, "Redis", str(exc)


def _files() -> tuple[bool, str, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= 4096 or soft == resource.RLIM_INFINITY
    more = "" if enough else f"; for thousands of connections: ulimit -n {hard}"
    return enough, "file limit", f"{soft} open files, at most that many sockets{more}"


def _port(port: int) -> tuple[bool, str, str]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False, f"port {port}", "in use: choose another with --port"
    return True, f"port {port}", "free"
