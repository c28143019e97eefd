"""A program that is judged: started with its environment, listened to, and ended.

Its output is read as fast as it comes, and only the end of it is kept. It is a process
group of its own, which is ended as a whole, whatever happened to its first process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from labserver.judge.outcomes import CannotJudge
from labserver.processes.ports import free_port
from labserver.redis.embedded import end_with_parent

TAIL = 8192  # bytes of the output that are kept
FLOOD = 2_000_000  # bytes of output within FLOOD_SECONDS that are too many
FLOOD_SECONDS = 4.0
GOODBYE = 2.0  # seconds that SIGTERM leaves it
_TOKEN = re.compile(r"eyJ[\w.-]{8,}")
_ERROR = re.compile(r"\w*Error( \[\w+\])?: ")
LOOPBACK = (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"))


class Output:
    """What a program prints, on both of its outputs.

    Args:
        secret: What is never shown of it; ``""`` for nothing.

    """

    def __init__(self, secret: str = "") -> None:
        self.secret = secret
        self.tail = b""
        self.printed: set[bytes] = set()
        self.wanted: set[bytes] = set()
        self.window = time.monotonic()
        self.amount = 0  # bytes since then
        self.total = 0
        self.flooding = False

    def take(self, data: bytes) -> None:
        now = time.monotonic()
        if now - self.window > FLOOD_SECONDS:
            self.window, self.amount = now, 0
        self.amount += len(data)
        self.total += len(data)
        self.flooding = self.flooding or self.amount > FLOOD
        text = self.tail + data
        self.printed.update(word for word in self.wanted if word in text)
        self.tail = text[-TAIL:]

    @property
    def last_line(self) -> str:
        """The last line, or the error of which it is the end; without secrets."""
        lines = self.tail.decode(errors="replace").splitlines()
        said = [each.strip() for each in lines if each.strip()]
        if said and said[-1].startswith("Node.js v"):  # after an error and its stack
            said = [each for each in said if _ERROR.match(each)] or said
        last = _TOKEN.sub("TOKEN", said[-1] if said else "")
        return (last.replace(self.secret, "SECRET") if self.secret else last)[:160]


class Program:
    """One run of a command.

    Args:
        command: The program and its arguments; ``{port}`` stands for its port.
        environment: Variables on top of this process's own, without ``LAB_*``.

    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.command = [each.replace("{port}", str(self.port)) for each in command]
        own = {k: v for k, v in os.environ.items() if not k.startswith("LAB_")}
        self.environment = {**own, "PORT": str(self.port), **environment}
        self.output = Output(environment.get("LAB_SECRET", ""))
        self.host = LOOPBACK[0][1]
        self.process: asyncio.subprocess.Process | None = None
        self.reading: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        words = " ".join(shlex.join(self.command).split())
        return words if len(words) <= 80 else words[:79] + "…"

    async def start(self, within: float, listens: bool = True) -> None:
        """Start it, and wait until its port answers, if it listens at all.

        Raises:
            CannotJudge: There is no such program, or it ends, floods or never listens.

        """
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGKILL),
            )
        except FileNotFoundError:
            raise CannotJudge(f"there is no command {self.command[0]!r}") from None
        except OSError as exc:
            raise CannotJudge(
                f"{self.command[0]!r} cannot be started: {exc.strerror}"
            ) from None
        self.reading = asyncio.create_task(self._read())
        deadline = time.monotonic() + within
        while listens and not await self._answers():
            if trouble := self.trouble():
                raise CannotJudge(f"{self.name} {trouble}")
            if time.monotonic() > deadline:
                raise CannotJudge(
                    f"{self.name} did not listen on port {self.port} (PORT) within "
                    f"{within:g} s{self._words()}"
                )
            await asyncio.sleep(0.02)

    def trouble(self) -> str:
        """Return what is wrong with it, as the rest of a sentence; empty if nothing."""
        assert self.process is not None
        if self.output.flooding:
            return "prints half a megabyte a second and more: start it without its log"
        status = self.process.returncode
        if status is None:
            return ""
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return f"ended by itself {how}{self._words()}"

    def memory(self) -> int:
        """Return the bytes of memory that its process group uses."""
        assert self.process is not None
        return _resident(self.process.pid)

    async def stop(self) -> None:
        """End its process group; politely first."""
        if self.process is None:
            return
        try:
            if self.process.returncode is None:
                self._signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GOODBYE):
                        await self.process.wait()
        finally:
            # Also when its first process ended: others of its group may not have.
            self._signal(signal.SIGKILL)
            if self.reading is not None:
                self.reading.cancel()
        await self.process.wait()

    async def kill(self) -> None:
        """End its process group at once."""
        assert self.process is not None
        self._signal(signal.SIGKILL)
        await self.process.wait()

    def _signal(self, how: signal.Signals) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, how)

    def _words(self) -> str:
        last = self.output.last_line
        return f"; its last words: {last}" if last else ", without a word"

    async def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        while data := await self.process.stdout.read(65536):
            self.output.take(data)

    async def _answers(self) -> bool:
        for host, name in LOOPBACK:
            try:
                async with asyncio.timeout(1):
                    _, writer = await asyncio.open_connection(host, self.port)
            except (OSError, TimeoutError):
                continue
            ends = [writer.get_extra_info(end) for end in ("sockname", "peername")]
            writer.transport.abort()
            if ends[0] == ends[1]:
                continue  # nobody listens yet: a socket may connect to itself
            self.host = name
            return True
        return False


def _resident(group: int) -> int:
    """Return the resident bytes of all processes of a group."""
    if sys.platform == "linux":
        page, pages = os.sysconf("SC_PAGE_SIZE"), 0
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:  # pgrp, see proc(5); rss is the 24th
                    pages += int(fields[21])
        return pages * page
    said = subprocess.run(
        ["ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True, timeout=5
    )
    rows = (line.split() for line in said.stdout.splitlines())
    return 1024 * sum(int(rss) for pgid, rss in rows if int(pgid) == group)
