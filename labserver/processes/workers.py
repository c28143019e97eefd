"""Several processes on one port: the cores of a machine, without a router.

The kernel spreads connections over the sockets that share a port (SO_REUSEPORT; Linux
does so evenly). Each worker is a ``labserver serve`` like any other; the rooms are one
world because all talk through one Redis. A worker that ends by itself is started again,
after a pause that doubles for as long as it does not last. One that stands still would
go on to get its share of the connections, and answer none: it is killed first. Each
worker's loop writes a byte a second to a pipe, and its silence is what tells.

What is counted is counted by the worker: a cap on connections is each worker's own, and
``/metrics`` shows the worker that happens to answer (``labserver_info`` names it).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from labserver.errors import LabError
from labserver.redis.embedded import end_with_parent
from labserver.server.listening import open_port
from labserver.settings import Settings, to_environment

log = logging.getLogger("labserver")

START_TIMEOUT = 20.0  # seconds
STOP_TIMEOUT = 5.0  # seconds beyond the drain
SHORTEST, LONGEST = 0.1, 5.0  # seconds between an end and the next start
STEADY = 10.0  # seconds after which a worker has lasted
BEAT_INTERVAL = 1.0  # seconds
LOOK_INTERVAL = (
    3.0  # seconds; who is silent from one look to the next but one is killed
)
BEAT = "LABSERVER_BEAT"  # variable that tells a worker which descriptor to write to


class WorkerFailed(LabError):
    """A worker ended before it listened; it has said why on standard error."""


class Worker:
    """One process, kept alive.

    Args:
        number: From 1.
        arguments: Of ``labserver serve``.
        settings: Its settings; they reach it through the environment, because
            everybody on the machine can read a command line.

    """

    def __init__(
        self, number: int, arguments: Sequence[str], settings: Settings
    ) -> None:
        self.number = number
        self.command = [sys.executable, "-m", "labserver", "serve", *arguments]
        others = {n: text for n, text in os.environ.items() if n[:4] != "LAB_"}
        self.environment = {**others, **to_environment(settings)}
        self.process: asyncio.subprocess.Process | None = None
        self.beats = -1  # the descriptor on which its loop is heard

    async def start(self) -> None:
        """Return when it listens.

        Raises:
            WorkerFailed: It does not.

        """
        self.forget_beats()
        self.beats, beat = os.pipe()
        os.set_blocking(self.beats, False)
        try:
            process = self.process = await asyncio.create_subprocess_exec(
                *self.command,
                env={**self.environment, BEAT: str(beat)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=(beat,),
                start_new_session=True,  # Ctrl-C reaches it through whoever started it
                preexec_fn=partial(end_with_parent, signal.SIGTERM),
            )
        finally:
            os.close(beat)
        assert process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT):
                line = await process.stdout.readline()
        if not line.startswith(b"listening on "):
            self.send(signal.SIGKILL)
            raise WorkerFailed(f"worker {self.number} does not listen")

    def forget_beats(self) -> None:
        if self.beats >= 0:
            os.close(self.beats)
            self.beats = -1

    async def watch(self) -> None:
        """Kill it when its loop is not heard any more."""
        silent = 0
        # Once is not enough: perhaps the whole machine stood still.
        while silent < 2:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                if not os.read(self.beats, 65536):
                    return  # it is ending
                silent = 0
            except BlockingIOError:
                silent += 1
            except OSError:
                return  # there is none yet
        log.warning("a worker stands still: killed", extra={"worker": self.number})
        self.send(signal.SIGKILL)

    async def keep(self) -> None:
        """Start it again whenever it ends, or stands still."""
        pause, began = SHORTEST, time.monotonic()
        while True:
            assert self.process is not None
            watching = asyncio.create_task(self.watch())
            try:
                status = await self.process.wait()
            finally:
                watching.cancel()
            if time.monotonic() - began > STEADY:
                pause = SHORTEST
            about = {"worker": self.number, "status": status}
            log.warning("a worker ended: again in %g s", pause, extra=about)
            await asyncio.sleep(pause)
            pause, began = min(2 * pause, LONGEST), time.monotonic()
            with contextlib.suppress(WorkerFailed, OSError):  # fork() may fail, too
                await self.start()

    def send(self, how: signal.Signals) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(how)

    async def stop(self, within: float) -> None:
        """Let it drain, and kill it if it is not done after ``within`` seconds."""
        self.forget_beats()
        if self.process is None:
            return
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                await self.process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.process.wait()


async def beat() -> None:
    """Let whoever watches over this worker hear its loop; return if nobody does."""
    file = int(os.environ.pop(BEAT, "-1"))
    if file < 0:
        return
    os.set_blocking(file, False)
    while True:
        # Full: nobody has looked for hours. Closed: the parent is gone.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(file, b".")
        await asyncio.sleep(BEAT_INTERVAL)


def reserved(host: str, port: int, settings: Settings, chosen_by: str) -> socket.socket:
    """Return a socket that keeps a port for the workers, and listens itself to nothing.

    The port is tried alone first: another server that shares it too would take a part
    of the connections without a word.

    Raises:
        SettingsError: The port is taken.

    """
    with open_port(host, port, settings, chosen_by) as alone:
        port = alone.getsockname()[1]
    return open_port(host, port, replace(settings, reuse_port=True), chosen_by)


@asynccontextmanager
async def running_workers(
    arguments: Sequence[str], host: str, port: int, settings: Settings
) -> AsyncIterator[tuple[int, int | None]]:
    """Run ``settings.workers`` processes; the value is their port, and that for SSE.

    Args:
        arguments: Of ``labserver serve``, but for host, port and settings.
        host: Address to listen on.
        port: Port; 0 for a free one.
        settings: With the URL of a Redis that all share.

    Raises:
        LabError: A port is taken, or a worker does not start.

    """
    with contextlib.ExitStack() as ports:
        place = ports.enter_context(reserved(host, port, settings, "--port"))
        port, sse_port = place.getsockname()[1], settings.sse_port
        if sse_port is not None:
            other = reserved(host, sse_port, settings, "--sse-port")
            sse_port = ports.enter_context(other).getsockname()[1]
        own = replace(settings, workers=1, reuse_port=True, sse_port=sse_port)
        name = settings.replica or socket.gethostname()
        place_flags = ("--host", host, "--port", str(port))
        workers = [
            Worker(
                number,
                (*arguments, *place_flags),
                replace(own, replica=f"{name}-{number}"),
            )
            for number in range(1, settings.workers + 1)
        ]
        keepers: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for worker in workers:
                    group.create_task(worker.start())
            keepers += [asyncio.create_task(worker.keep()) for worker in workers]
            yield port, sse_port
        except* WorkerFailed as failed:
            raise failed.exceptions[0] from None
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            within = settings.drain_timeout + STOP_TIMEOUT
            await asyncio.gather(*(worker.stop(within) for worker in workers))
