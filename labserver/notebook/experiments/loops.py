"""Closed and open loops of load, and errors of the load generator itself.

A closed loop sends a message when the answer to the previous one has arrived; an open
loop sends a message when it is due. Both record when each message was due, was sent and
came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from matplotlib.figure import Figure
from websockets.asyncio.client import ClientConnection, connect

from labserver.load.pictures.style import COLOURS, GRID, INK
from labserver.notebook.charts import WIDTH, Picture
from labserver.notebook.experiments.slow import Latencies
from labserver.notebook.peers import Peer, connected
from labserver.notebook.servers import running
from labserver.processes.cluster import Replica

RATE = 100  # messages a second
STALL = 0.3  # seconds
ANSWER_TIMEOUT = 5.0  # seconds
BURN_PERIOD = 0.05  # seconds; in each, a busy generator does some other work


@dataclass
class Trips:
    """The messages of a run. Times are in seconds since the run began.

    Attributes:
        due: When each message was due.
        sent: When each message was sent.
        back: When each message came back, by number; lost messages are absent.
        cpu: The generator's share of one core, from 0 to 1.

    """

    due: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    back: dict[int, float] = field(default_factory=dict)
    cpu: float = 0.0

    @property
    def from_sent(self) -> list[float]:
        """Milliseconds from sending to return, of each message that came back."""
        return [(at - self.sent[n]) * 1000 for n, at in self.back.items()]

    @property
    def from_due(self) -> list[float]:
        """Milliseconds from due time to return, of each message that came back."""
        return [(at - self.due[n]) * 1000 for n, at in self.back.items()]

    @property
    def slip(self) -> list[float]:
        """Milliseconds that the generator was late in sending each message."""
        pairs = zip(self.due, self.sent, strict=True)
        return [(sent - due) * 1000 for due, sent in pairs]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that ``percent`` of all values do not exceed; 0 if empty."""
    ranked = sorted(values)
    return ranked[max(0, -int(-len(ranked) * percent // 100) - 1)] if ranked else 0.0


async def closed_loop(peer: Peer, rate: float, seconds: float) -> Trips:
    """Send a message when it is due *and* the previous one has come back."""
    trips, start = Trips(), time.monotonic()
    for number in range(round(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        trips.due.append(due - start)
        trips.sent.append(time.monotonic() - start)
        await peer.publish("closed", number)
        await peer.messages(number + 1, within=ANSWER_TIMEOUT)
    trips.back = {number: at - start for number, at in peer.heard.items()}
    return trips


async def open_loop(peer: Peer, rate: float, seconds: float) -> Trips:
    """Send a message when it is due, whether others have come back or not."""
    trips, start = Trips(), time.monotonic()
    count, cpu = round(rate * seconds), time.process_time()
    for number in range(count):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        trips.due.append(due - start)
        trips.sent.append(time.monotonic() - start)
        await peer.publish("open", number)
    trips.cpu = (time.process_time() - cpu) / (time.monotonic() - start)
    await peer.messages(count, within=ANSWER_TIMEOUT)
    trips.back = {number: at - start for number, at in peer.heard.items()}
    return trips


async def freeze(server: Replica, after: float, seconds: float) -> None:
    """After ``after`` seconds, stop a server's process for ``seconds`` (SIGSTOP)."""
    await asyncio.sleep(after)
    server.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.process.send_signal(signal.SIGCONT)


async def through_a_stall(
    seconds: float = 2.0, stall: float = STALL, rate: float = RATE
) -> tuple[Trips, Trips]:
    """Run both loops on a server that stalls; return results of closed, then open."""
    async with (
        running("backpressure") as server,
        connected(server, "closed", "closed") as waits,
        connected(server, "open", "open") as goes_on,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(freeze(server, seconds / 2, stall))
        closed = group.create_task(closed_loop(waits, rate, seconds))
        opened = group.create_task(open_loop(goes_on, rate, seconds))
    return closed.result(), opened.result()


@asynccontextmanager
async def other_work(share: float) -> AsyncIterator[None]:
    """Use a share of this process's time, in pieces, until the block ends.

    It imitates a generator that parses, checks, logs and draws while it measures.
    """

    async def burn() -> None:
        while True:
            until = time.monotonic() + share * BURN_PERIOD
            while time.monotonic() < until:
                pass
            await asyncio.sleep((1 - share) * BURN_PERIOD)

    task = asyncio.create_task(burn())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def generators(*shares: float, seconds: float = 1.0) -> dict[float, Trips]:
    """Measure a server with generators that use ``shares`` of their time otherwise."""
    found = {}
    async with running("backpressure") as server:
        for share in shares:
            async with (
                connected(server, f"busy-{share}", "open") as peer,
                other_work(share),
            ):
                found[share] = await open_loop(peer, RATE, seconds)
    return found


async def dawdling(*, messages: int = 80, **options: Any) -> Latencies:
    """Measure delivery to a reader that is too slow for half of the messages.

    Messages of 8 kB are published every 10 ms. The reader reads one every 20 ms, until
    none has come for a second. Latency is counted from the time at which a message was
    due.

    Args:
        messages: How many messages are published.
        options: As for :func:`running`.

    """
    arrived: list[float] = []
    async with (
        running("backpressure", send_buffer=16384, **options) as server,
        connected(server, "publisher") as publisher,
        _small_reader(server) as reader,
    ):
        start = time.monotonic()

        async def read() -> None:
            with contextlib.suppress(TimeoutError):
                while len(arrived) < messages:
                    async with asyncio.timeout(1.0):
                        number, _ = json.loads(await reader.recv())["payload"]
                    late = time.monotonic() - start - number / RATE
                    arrived.append(late * 1000)
                    await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            for number in range(messages):
                due = start + number / RATE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await publisher.publish("lobby", [number, "x" * 8000])
    return Latencies(arrived, messages)


@asynccontextmanager
async def _small_reader(server: Replica) -> AsyncIterator[ClientConnection]:
    """Connect and join the lobby, with the smallest possible buffers."""
    place = urlsplit(server.url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (place.hostname, place.port))
        async with connect(
            server.address("reader"), sock=sock, compression=None, max_queue=1
        ) as reader:
            await reader.send('{"type":"join","room":"lobby"}')
            while json.loads(await reader.recv())["type"] != "joined":
                pass
            yield reader


def stall_picture(closed: Trips, opened: Trips) -> Picture:
    """Draw one stall in three measurements: every message, and percentiles."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    title = f"One stall of {STALL * 1000:.0f} ms, measured in three ways"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    seen = {
        "open, from due": (opened, opened.from_due, "o"),
        "closed, from due": (closed, closed.from_due, "x"),
        "closed, from sent": (closed, closed.from_sent, "s"),
    }
    words = []
    for colour, (name, (trips, late, marker)) in zip(
        COLOURS, seen.items(), strict=False
    ):
        places = [trips.due[number] for number in trips.back]
        left.plot(
            places,
            late,
            marker,
            color=colour,
            markersize=2.5 if marker == "s" else 3.5,
            markerfacecolor="none" if marker == "o" else colour,
        )
        ranked = sorted(late)
        shares = [100 * (rank + 1) / len(ranked) for rank in range(len(ranked))]
        right.plot(shares, ranked, color=colour, linewidth=2, label=name)
        words.append(f"{name}: p99 {percentile(late, 99):.0f} ms")
    left.set_xlabel("when a message was due, seconds", color=INK, fontsize=9)
    left.set_ylabel("latency, ms", color=INK, fontsize=9)
    left.set_title("every message", loc="left", fontsize=9.5, color=INK)
    right.set_title("sorted: percentiles", loc="left", fontsize=9.5, color=INK)
    right.set_xlabel("percentile of messages, %", color=INK, fontsize=9)
    right.axvline(99, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    right.set_xlim(70, 100.4)
    for axes in (left, right):
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
        axes.set_ylim(bottom=0)
    figure.legend(
        *right.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return Picture(figure, f"{title}. {'; '.join(words)}.")
