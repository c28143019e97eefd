"""Servers as processes on one core, and the table of rivals.

Each server prints ``listening on ws://...`` when it listens, like ``labserver serve``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from bench.cache import HERE, Missing, compiled, node_modules
from labserver.contract.tokens import issue
from labserver.processes.launch import NotListening, kill, launch

START_TIMEOUT = 20.0  # seconds
ROOM = "bench"
Step = int | str  # number of messages to read, or a message to send


@dataclass(frozen=True)
class Dialect:
    """The protocol of a server.

    Args:
        path: Target of the handshake.
        entry: Steps after the handshake until a connection gets messages.
        idle: The same for an idle connection.
        frame: Function that returns the text of a message of the contract.

    """

    entry: tuple[Step, ...]
    idle: tuple[Step, ...]
    frame: Callable[[str, object], str]
    path: str = "/"


def as_json(kind: str, payload: object = None) -> str:
    """Return a message of the contract; a join has no payload."""
    message = {"type": kind, "room": ROOM}
    if payload is not None:
        message["payload"] = payload
    return json.dumps(message, separators=(",", ":"))


def as_event(kind: str, payload: object = None) -> str:
    """Return the same as a Socket.IO event, in an Engine.IO message (42)."""
    message = json.loads(as_json(kind, payload))
    del message["type"]
    return "42" + json.dumps([kind, message], separators=(",", ":"))


CONTRACT = Dialect((1, as_json("join"), 1), (1,), as_json)
# Engine.IO's open packet, the namespace (40) and its answer, then hello and joined.
SOCKET_IO = Dialect(
    (1, "40", 2, as_event("join"), 1),
    (1, "40", 2),
    as_event,
    "/socket.io/?EIO=4&transport=websocket",
)


@dataclass(frozen=True)
class Server:
    """A process that listens."""

    port: int
    pid: int
    path: str = "/"


@dataclass(frozen=True)
class Rival:
    """One server of the contest.

    Args:
        name: Name on the command line.
        title: Name in tables and pictures.
        command: Function that returns the command; its argument is whether to use
            deflate.
        deflate: Whether the server can compress.
        dialect: Protocol of the server.
        modules: Python modules that it needs.

    """

    name: str
    title: str
    command: Callable[[bool], list[str]]
    deflate: bool = False
    dialect: Dialect = CONTRACT
    modules: tuple[str, ...] = ()

    def missing(self) -> str:
        """Return why it cannot run on this machine; empty if it can."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"the module {module} is missing: pip install -e '.[peers]'"
        try:
            self.command(False)
        except Missing as exc:
            return str(exc)
        return ""


def lab(*arguments: str) -> list[str]:
    """Return the command of a lab server without a rate limit."""
    serve = [sys.executable, "-m", "labserver", "serve", "--port", "0"]
    return [*serve, "--message-rate-limit", "0", *arguments]


def node(*arguments: str) -> list[str]:
    modules = f"--modules={node_modules()}"
    return [
        shutil.which("node") or "node",
        str(HERE / "node_ws.mjs"),
        modules,
        *arguments,
    ]


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(HERE / name), *arguments]


RIVALS = {
    rival.name: rival
    for rival in (
        Rival(
            "lab",
            "lab",
            lambda _: lab("--stage", "resume", "--without", "broker"),
            deflate=True,
        ),
        Rival(
            "node",
            "Node ws (article)",
            lambda deflate: node(*(["--deflate"] if deflate else [])),
            deflate=True,
        ),
        Rival(
            "broadcast",
            "websockets.broadcast()",
            lambda _: script("websockets_server.py", "broadcast"),
            deflate=True,
        ),
        Rival(
            "await-send",
            "for: await send()",
            lambda _: script("websockets_server.py", "await-send"),
            deflate=True,
        ),
        Rival(
            "picows",
            "picows",
            lambda _: script("picows_server.py"),
            modules=("picows",),
        ),
        Rival(
            "socketify",
            "uWebSockets (socketify)",
            lambda _: script("socketify_server.py"),
            modules=("socketify",),
        ),
        Rival(
            "fastapi",
            "FastAPI on uvicorn",
            lambda _: script("fastapi_server.py"),
            modules=("fastapi", "uvicorn"),
        ),
        Rival(
            "socketio",
            "python-socketio",
            lambda _: script("socketio_server.py"),
            deflate=True,
            dialect=SOCKET_IO,
            modules=("socketio", "aiohttp"),
        ),
        Rival("floor", "C loop of send()", lambda _: [str(compiled("floor.c"))]),
    )
}


def surroundings() -> dict[str, str]:
    """Return the environment without LAB_* variables, which change settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LAB_")}


@asynccontextmanager
async def running(
    command: Sequence[str], core: int | None = 0
) -> AsyncIterator[Server]:
    """Run a server until the end of the block.

    Args:
        command: Command to run.
        core: The only core that it may use; None for all.

    Raises:
        Missing: The server did not listen; the message is the last line of its output.

    """
    secret = secrets.token_urlsafe(32)
    try:
        process, url = await launch(
            command,
            {**surroundings(), "LAB_SECRET": secret},
            lambda: settled(core),
            START_TIMEOUT,
        )
    except NotListening as exc:
        raise Missing(f"{exc}".splitlines()[-1]) from None
    try:
        port = int(url.rpartition(":")[2])
        path = f"/?token={issue(secret, 'ann')}" if "labserver" in command else "/"
        yield Server(port, process.pid, path)
    finally:
        # Killed, because the receiver is gone: there is nothing to drain.
        await kill(process)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def settled(core: int | None) -> None:
    """In a new process: use one core, allow many open files, end with the parent."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if core is not None:
        os.sched_setaffinity(0, {core})
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Allow processes that are started in the block one core only."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores() -> tuple[int | None, int | None]:
    """Return the cores of server and receiver; None for both without two cores."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)
