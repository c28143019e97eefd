"""The six scenarios of ``loadtests``, run from a chapter with Locust as a subprocess.

Locust would replace the kernel's event loop, so it is never imported here. The run is a
task of its own, and cells wait for it. It ends after a few seconds and stops its
processes, also when a cell is interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import labserver
from labserver.errors import LabError
from labserver.notebook.progress import Line
from labserver.notebook.servers import running_cluster
from labserver.processes.cluster import Cluster
from labserver.redis.embedded import end_with_parent

FOLDER = Path(labserver.__file__).parent.parent / "loadtests"
SECONDS = 2  # of load
USERS = 40
PATIENCE = 40.0  # seconds for all of Locust's run: start, load, drain, summary
TICK = 0.2
PUBLISHED = "labserver_messages_published_total"
# Finds the lab's summary in Locust's output, between its log, tables and folders.
SUMMARY = re.compile(r"^churn\n.*?^verdict .*?$", re.DOTALL | re.MULTILINE)


# What a chapter asks of each scenario: how the lines begin that say it.
ASKED: dict[str, tuple[str, ...]] = {
    "churn": ("handshake", "refused"),
    "fanout": ("subscribers",),
    "idle": ("memory", "noticed after"),
    "reconnect_storm": ("accepts", "back after", "missed"),
    "replicas": ("members", "other replica", "same replica"),
    "slow_readers": ("healthy", "throttled"),
    "generator": ("sent late", "read late", "processor"),
}


class NoLoad(LabError):
    """The load tests did not run; the message says why."""


class Six:
    """All six scenarios at once on two replicas, with 40 users for two seconds."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()
        self.loaded = asyncio.Event()  # the first message was published
        self.said = ""  # Locust's output, when it is done

    async def begin(self) -> None:
        """Start two replicas, then Locust; return when the replicas listen.

        Raises:
            NoLoad: The load tests are not in this installation.
            NotListening: A replica did not start.

        """
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task])
        self.listening, self.loaded = asyncio.Event(), asyncio.Event()
        self.said = ""
        self.task = asyncio.create_task(self._run())
        await self._until(self.listening, "two replicas start")

    async def crowd(self) -> None:
        """Wait until the first message was published; begin the run if there is none.

        Raises:
            NoLoad: Locust did not start.

        """
        if self.task is None:
            await self.begin()
        await self._until(self.loaded, "Locust starts, users connect")

    async def _until(self, event: asyncio.Event, doing: str) -> None:
        assert self.task is not None
        line = Line()
        line.say(doing)
        while not event.is_set() and not self.task.done():
            await asyncio.wait([self.task], timeout=TICK)
        self._check()
        line.say(f"{doing}: done")

    async def report(self) -> str:
        """Return the summary when Locust is done; begin the run if there is none.

        Raises:
            NoLoad: Locust printed no summary.

        """
        if self.task is None:
            await self.begin()
        assert self.task is not None
        line, began = Line(), time.monotonic()
        while not self.said and not self.task.done():
            line.say(f"under load since {time.monotonic() - began:.0f} s")
            await asyncio.wait([self.task], timeout=TICK)
        line.say("the run is over")
        self._check()
        if found := SUMMARY.search(self.said):
            return shortened(found.group())
        raise NoLoad(self.said.strip().rpartition("\n")[2] or "Locust said nothing")

    def _check(self) -> None:
        """Raise the exception that ended the run, if any."""
        if self.task is not None and self.task.done() and not self.task.cancelled():
            self.task.result()

    async def _run(self) -> None:
        if not FOLDER.is_dir():
            raise NoLoad("there is no folder loadtests: run this chapter in a clone")
        async with running_cluster(2, heartbeat_interval=0.5) as cluster:
            self.listening.set()
            with tempfile.TemporaryDirectory() as results:
                self.said = await self._locust(cluster, results)

    async def _locust(self, cluster: Cluster, results: str) -> str:
        urls = [replica.url for replica in cluster.replicas]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "-f", str(FOLDER), "--headless"),
            *("--host", urls[0], "--replicas", ",".join(urls), "--results", results),
            *("-u", str(USERS), "-r", str(USERS), "-t", f"{SECONDS}s"),
            "--no-pictures",
            env={**os.environ, "LAB_SECRET": cluster.replicas[0].secret},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
        watching = asyncio.create_task(self._watch(cluster))
        try:
            async with asyncio.timeout(PATIENCE):
                said, _ = await process.communicate()
        finally:
            watching.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
        return said.decode(errors="replace")

    async def _watch(self, cluster: Cluster) -> None:
        while not self.loaded.is_set():
            with contextlib.suppress(OSError):
                if await cluster.replicas[0].metric(PUBLISHED):
                    self.loaded.set()
            await asyncio.sleep(TICK)


def shortened(summary: str) -> str:
    """Return the lines of a summary that a chapter asks for, and its verdict."""
    kept, asked = list[str](), ASKED["churn"]
    for line in summary.splitlines():
        if line and not line.startswith(" "):
            asked = ASKED.get(line, ())
            kept.append(line)
        elif line.strip().startswith(asked) and asked:
            kept.append(line)
    return "\n".join(kept)


six = Six()
