"""``labserver doctor``: what this machine has of what the lab needs."""

from __future__ import annotations

import platform
import resource
import socket
import subprocess
import sys

import typer
from rich.table import Table

from labserver.cli.app import app, table_out
from labserver.errors import RedisMissing
from labserver.redis.embedded import find_redis


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
