"""Worlds that see servers from outside only: a command's processes, and URLs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from labserver.client import Client
from labserver.contract.tokens import issue
from labserver.judge.evidence import fault
from labserver.judge.outcomes import CannotJudge, Skipped
from labserver.judge.peers import Place, Served, door_of
from labserver.judge.program import Program
from labserver.judge.world import World, breakable_redis
from labserver.server.server import LabServer

# Settings of the wire contract that a command is told; a check may ask for no other.
TOLD = {
    "heartbeat_interval",
    "outbox_limit",
    "stuck_timeout",
    "history_limit",
    "history_ttl",
}
INSIDE = "can be seen only from inside a server of the lab"
START_TIMEOUT = 20.0  # seconds
PROGRAMS = 3  # that run at a time, beside those that a check uses
HANDSHAKE_TIMEOUT = 5.0


@dataclass(frozen=True)
class Outside(World):
    """A world whose servers cannot be looked into.

    Their rooms may be used already, so each check talks in rooms of its own.
    """

    healthy: ClassVar[int] = 50
    secret: str = field(default="", repr=False)
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    turns: Any = field(default_factory=itertools.count, repr=False)
    rooms: dict[str, str] = field(default_factory=dict, repr=False)

    def room(self, name: str) -> str:
        if name not in self.rooms:
            self.rooms[name] = f"{name}-{self.run}-{next(self.turns)}"
        return self.rooms[name]

    def begin(self) -> None:
        """Begin a check: rooms have new names."""
        self.rooms.clear()

    @asynccontextmanager
    async def inside(self, **settings: Any) -> AsyncIterator[LabServer]:
        raise Skipped(INSIDE)
        yield

    @property
    def make_client(self) -> Callable[..., Client]:
        raise Skipped("judges a client, and this is a server")

    def client(self, server: Served, user: str = "ann") -> Client:
        return Client(server.url, issue(self.secret, user))

    async def break_link(self) -> None:
        raise Skipped("its Redis is not the judge's to break")

    async def kill(self, server: Served) -> None:
        raise Skipped("its process is not the judge's to kill")

    def trouble(self) -> str:
        """Return what is wrong with the servers, a sentence; empty if nothing."""
        return ""

    def words(self) -> str:
        """Return the last line that a server printed since the check began, if any."""
        return ""

    async def forget(self) -> None:
        """Let the next check have other processes, where they are the judge's."""


@dataclass(frozen=True)
class Remote(Outside):
    """Servers that somebody else runs, at URLs."""

    urls: Sequence[str] = ()

    @asynccontextmanager
    async def running(self, replica: int = 0, **settings: Any) -> AsyncIterator[Served]:
        if settings:
            names = " and ".join(f"LAB_{name.upper()}" for name in settings)
            raise Skipped(f"needs a small {names}: start the server as a command")
        if replica >= len(self.urls):
            raise Skipped("needs two servers: give the URLs of both")
        yield Place(self.urls[replica], self.secret)


@dataclass(frozen=True)
class Command(Outside):
    """Processes of one command, started as checks need them.

    A process is kept for the next check that wants the same settings.
    """

    argv: Sequence[str] = ()
    start_timeout: float = START_TIMEOUT
    programs: dict[Any, Program] = field(default_factory=dict, repr=False)
    used: list[Program] = field(default_factory=list, repr=False)
    printed: dict[Program, int] = field(default_factory=dict, repr=False)  # bytes

    @asynccontextmanager
    async def running(self, replica: int = 0, **settings: Any) -> AsyncIterator[Served]:
        if strange := settings.keys() - TOLD:
            raise Skipped(f"needs settings that are no contract: {sorted(strange)}")
        program = await self._program((replica, *sorted(settings.items())), settings)
        self.used.append(program)
        try:
            yield Place(f"ws://{program.host}:{program.port}", self.secret)
        finally:
            self.used.remove(program)

    async def _program(self, key: Any, settings: dict[str, Any]) -> Program:
        found = self.programs.pop(key, None)
        if found is not None and found.trouble():
            await found.stop()
            found = None
        if found is None:
            await self._make_room()
            told = {f"LAB_{name.upper()}": str(v) for name, v in settings.items()}
            told["LAB_SECRET"], told["LAB_STAGE"] = self.secret, self.stage
            if self.redis:
                told["LAB_REDIS_URL"] = self.redis
            found = Program(self.argv, told)
            # Before it is started: whatever happens then, it is ended.
            self.programs[key] = found
            await found.start(self.start_timeout)
        self.programs[key] = found  # the newest last
        return found

    async def _make_room(self) -> None:
        idle = [key for key, each in self.programs.items() if each not in self.used]
        for key in idle[: max(0, len(idle) - PROGRAMS + 1)]:
            await self.programs.pop(key).stop()

    def _program_of(self, server: Served) -> Program:
        port = urlsplit(server.url).port
        return next(each for each in self.programs.values() if each.port == port)

    def memory(self, server: Served) -> int:
        return self._program_of(server).memory()

    async def kill(self, server: Served) -> None:
        """End a server in mid-sentence, as a crash would."""
        program = self._program_of(server)
        fault(f"killed the server at port {program.port}")
        await program.kill()
        for key in [key for key, each in self.programs.items() if each is program]:
            await self.programs.pop(key).stop()

    def watch_output(self, *words: str) -> Callable[[], bool]:
        outputs = [each.output for each in self.programs.values()]
        wanted = {word.encode() for word in words}
        for each in outputs:
            each.wanted |= wanted
        return lambda: any(each.printed & wanted for each in outputs)

    async def break_link(self) -> None:
        if self.network is None:
            raise Skipped("there is no Redis to break")
        fault("cut the servers' connections to Redis")
        self.network.cut()

    def begin(self) -> None:
        super().begin()
        self.printed.clear()
        self.printed.update(
            {each: each.output.total for each in self.programs.values()}
        )

    def words(self) -> str:
        for each in self.programs.values():
            if each.output.total > self.printed.get(each, 0):
                return each.output.last_line
        return ""

    def trouble(self) -> str:
        for each in self.programs.values():
            if each.process is not None and (what := each.trouble()):
                return f"{each.name} {what}"
        return ""

    async def forget(self) -> None:
        """End every process: the next check gets new ones."""
        programs = [*self.programs.values()]
        self.programs.clear()
        await asyncio.gather(*(each.stop() for each in programs))


@asynccontextmanager
async def commanded(
    argv: Sequence[str], stage: str, **options: Any
) -> AsyncIterator[Command]:
    """Yield the world of a command; all that it starts is ended afterwards.

    Args:
        argv: The program and its arguments.
        stage: Name of the last stage that is judged.
        options: As for :class:`Command`.

    Raises:
        CannotJudge: It does not start, or speaks no WebSocket.
        RedisMissing: The stage needs a Redis, and none is found.

    """
    async with AsyncExitStack() as stack:
        redis, network, store = "", None, None
        if World(stage).includes("broker"):
            breakable = breakable_redis()
            redis, network, store = await stack.enter_async_context(breakable)
        secret = secrets.token_urlsafe(32)
        world = Command(
            stage,
            redis,
            secret=secret,
            argv=argv,
            network=network,
            store=store,
            **options,
        )
        stack.push_async_callback(world.forget)
        async with world.running() as server:
            try:
                await _is_server(server)
            except CannotJudge:
                if trouble := world.trouble():
                    raise CannotJudge(trouble) from None
                raise
        yield world


@asynccontextmanager
async def remote(
    urls: Sequence[str], stage: str, secret: str, **options: Any
) -> AsyncIterator[Remote]:
    """Yield the world of servers at URLs.

    Raises:
        CannotJudge: No WebSocket server answers there.

    """
    world = Remote(stage, urls=urls, secret=secret, **options)
    for number in range(len(urls)):
        async with world.running(number) as server:
            await _is_server(server, theirs=True)
    yield world


async def _is_server(server: Served, theirs: bool = False) -> None:
    """Raise CannotJudge where no WebSocket server answers.

    Args:
        server: Where.
        theirs: Whether its secret is somebody else's, and perhaps another one.

    """
    url = server.url
    assert isinstance(server, Place)
    # A stage before auth may be judged without a secret.
    secret = server.secret or "x" * 32
    headers = {"Authorization": f"Bearer {issue(secret, 'ann')}"}
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            socket = await connect(door_of(server), additional_headers=headers)
        with contextlib.suppress(OSError):
            socket.transport.abort()
    except InvalidStatus as exc:
        status = exc.response.status_code
        if status == 401 and theirs:
            why = "a token signed with LAB_SECRET: is it the same LAB_SECRET?"
            none = "every token, and LAB_SECRET is not set"
            raise CannotJudge(
                f"{url} answers HTTP 401 to {why if server.secret else none}"
            ) from None
        if status in (401, 403, 429, 503):
            return  # a check says what is wrong with that
        raise CannotJudge(
            f"{url} answers HTTP {status} to a WebSocket handshake: no WebSocket "
            "server, or another path"
        ) from None
    except ConnectionError as exc:
        raise CannotJudge(f"nothing listens at {url} ({exc.strerror or exc})") from None
    except TimeoutError:
        raise CannotJudge(
            f"{url} answered no WebSocket handshake within {HANDSHAKE_TIMEOUT:g} s"
        ) from None
    except (OSError, InvalidHandshake, EOFError, ValueError) as exc:
        raise CannotJudge(f"{url} is no WebSocket server ({exc})"[:200]) from None
