"""The receiver: runs ``receiver.c`` with a load, and returns its figures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.cache import compiled
from bench.servers import Dialect, Server, settled

# Share of its core from which on the receiver may be the bottleneck.
BUSY = 0.9
PATIENCE = 120.0  # seconds beyond the load's own after which a run fails
VOCABULARY = """
a and another are arrived back before broker client close connection each every first
frame from has hub in is it join last latency leave limit message more next of once one
order other peer ping queue reader replica room second seq server slow socket stage than
that the them then there time to token was when with without write
"""


class RunFailed(Exception):
    """The receiver failed; the message is its output."""


@dataclass(frozen=True)
class Load:
    """A load: what the receiver does.

    Args:
        subscribers: Connections in the room; the publisher is one of them.
        in_flight: Closed loop: publishes whose own copy has not come back yet.
        rate: Open loop: publishes a second. Set one of the two, or none to stay idle.
        seconds: Length of the measurement.
        warm_up: Seconds of the same load before the measurement.
        deflate: Offer permessage-deflate, and publish text of about 360 bytes.
        messages: Number of publishes at most; 0 for no limit.
        wire_bytes: Size of an uncompressed frame, as far as the server allows.
        ahead: Connections made before the measurement.
        settle: Seconds to wait before memory is measured.

    """

    subscribers: int
    in_flight: int = 0
    rate: float = 0
    seconds: float = 1
    warm_up: float = 0.5
    deflate: bool = False
    messages: int = 0
    wire_bytes: int = 150
    ahead: int = 0
    settle: float = 0

    @property
    def idle(self) -> bool:
        return not self.in_flight and not self.rate


@dataclass(frozen=True)
class Figures:
    """Figures of one run; times in seconds, sizes in bytes, latencies in us."""

    subscribers: int
    deflate: bool  # whether the server agreed to compress
    opening_seconds: float
    opening_cpu: float  # of the server, for all handshakes
    memory_before: int  # resident, of the server
    memory_connected: int
    memory_end: int
    seconds: float
    deliveries: int  # within ``seconds``
    wire_bytes: int
    server_cpu: float
    server_wait: float  # ready to run, but another program had the core
    receiver_cpu: float
    published: int  # in the whole run
    all_deliveries: int
    latency_count: int
    latency_p50: float
    latency_p99: float
    latency_max: float
    latency_p999: float = 0.0

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self.deliveries / self.seconds if self.seconds else 0.0

    @property
    def cost(self) -> float:
        """Microseconds of server CPU for each delivery."""
        return 1e6 * self.server_cpu / self.deliveries if self.deliveries else 0.0

    @property
    def frame(self) -> float:
        """Mean size of a frame on the wire, in bytes."""
        return self.wire_bytes / self.deliveries if self.deliveries else 0.0

    @property
    def handshakes(self) -> float:
        """Handshakes a second."""
        return self.subscribers / self.opening_seconds

    @property
    def handshake_cost(self) -> float:
        """Microseconds of server CPU for each handshake."""
        return 1e6 * self.opening_cpu / self.subscribers

    @property
    def connection(self) -> float:
        """Resident bytes of the server for each connection."""
        return (self.memory_connected - self.memory_before) / self.subscribers

    @property
    def receiver_share(self) -> float:
        """Share of a core that the receiver used."""
        return self.receiver_cpu / self.seconds if self.seconds else 0.0

    @property
    def server_share(self) -> float:
        """Share of a core that the server used."""
        return self.server_cpu / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """Share of the time that the server waited for its core."""
        return self.server_wait / self.seconds if self.seconds else 0.0

    @property
    def limited(self) -> bool:
        """Whether the receiver may have been the bottleneck."""
        return self.receiver_share > BUSY

    @property
    def arrived(self) -> float:
        """Share of the published messages that arrived (open loop)."""
        expected = self.published * self.subscribers
        return self.all_deliveries / expected if expected else 1.0

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "deliveries_per_second": round(self.rate, 1),
            "cpu_us_per_delivery": round(self.cost, 4),
            "frame_bytes": round(self.frame, 1),
            "receiver_share": round(self.receiver_share, 3),
            "server_share": round(self.server_share, 3),
            "waiting_share": round(self.waiting_share, 3),
            "receiver_was_limit": self.limited,
        }


@cache
def sentences(count: int = 64, seed: int = 7) -> tuple[str, ...]:
    """Return the same texts each time, of about 300 bytes, compressible like prose."""
    chance, words = random.Random(seed), VOCABULARY.split()
    texts = []
    for _ in range(count):
        text = ""
        while len(text) < 295:
            text += f"{chance.choice(words)} "
        texts.append(text.strip())
    return tuple(texts)


def payloads(load: Load, overhead: int) -> list[object]:
    """Return the payloads that are published in turns.

    Args:
        load: Decides on text or filling.
        overhead: Bytes of a frame around an empty string, in plain mode.

    """
    if load.deflate:
        return [
            {"text": text, "at": 1_700_000_000_000 + 9973 * place}
            for place, text in enumerate(sentences())
        ]
    # From 126 bytes of text on, a frame's header has two more bytes.
    size = load.wire_bytes - overhead - (2 if load.wire_bytes >= 130 else 0)
    return ["x" * max(0, size)] * 64


async def receive(
    servers: Sequence[Server], dialect: Dialect, load: Load, core: int | None = 1
) -> Figures:
    """Run one load against servers that share their rooms.

    Raises:
        RunFailed: The receiver gave up.
        Missing: There is no C compiler.

    """
    overhead = 0
    if not load.idle and not load.deflate:
        # A first run measures the bytes that the server adds to a payload, so that the
        # frames of all servers have the same size.
        probe = Load(1, in_flight=1, messages=1, seconds=0, warm_up=0)
        overhead = (await _run(servers, dialect, probe, [""], core)).wire_bytes_seen
    return (await _run(servers, dialect, load, payloads(load, overhead), core)).figures


@dataclass(frozen=True)
class _Result:
    figures: Figures
    wire_bytes_seen: int


async def _run(
    servers: Sequence[Server],
    dialect: Dialect,
    load: Load,
    published: Sequence[object],
    core: int | None,
) -> _Result:
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        command = [str(compiled("receiver.c")), *arguments(servers, dialect, load)]
        if not load.idle:
            lines = [dialect.frame("publish", payload) for payload in published]
            command.append(f"--publish={_written(Path(folder, 'publish'), lines)}")
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: settled(core),
        )
        try:
            async with asyncio.timeout(load.seconds + load.warm_up + PATIENCE):
                output, said = await process.communicate()
        except TimeoutError:
            raise RunFailed(f"nothing after {PATIENCE:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise RunFailed(said.decode(errors="replace").strip() or "it crashed")
    found = json.loads(output)
    seen = found.pop("all_wire_bytes")
    return _Result(Figures(**found), seen)


def _written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def arguments(servers: Sequence[Server], dialect: Dialect, load: Load) -> list[str]:
    """Return the receiver's command line, without the payloads."""
    words = []
    for server in servers:
        path = server.path if dialect.path == "/" else dialect.path
        words += [f"--port={server.port}", f"--path={path}", f"--pid={server.pid}"]
    for step in dialect.idle if load.idle else dialect.entry:
        words.append(f"--hear={step}" if isinstance(step, int) else f"--say={step}")
    for name in ("subscribers", "in_flight", "rate", "messages", "ahead"):
        if value := getattr(load, name):
            words.append(f"--{name.replace('_', '-')}={value}")
    for name in ("seconds", "warm_up", "settle"):
        words.append(f"--{name.replace('_', '-')}={getattr(load, name)}")
    return [*words, "--deflate"] if load.deflate else words
