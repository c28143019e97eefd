"""A demonstration of coordinated omission: two clients measure the same stall.

Both clients have the same schedule. One keeps to it, whatever the server does. The
other waits until its message has come back before it sends the next, like most load
generators. The server is frozen (SIGSTOP) for a while. The waiting client then has only
one message in flight, and catches up afterwards. Measured from sending, it has one slow
message; measured from the due times, its latencies are those of the other client.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from labserver.contract.plain_json import from_json, to_json
from labserver.load.figures.record import Record
from labserver.load.figures.results import (
    as_figures,
    machine,
    run_name,
    versions,
    write,
)
from labserver.load.figures.verdict import Verdict
from labserver.processes.cluster import Replica

RATE = 50  # messages a second of each client
FREEZE = 1.0  # seconds
ANSWER_TIMEOUT = 10.0  # seconds
SCENARIO = "omission"
NAMES = ("waits, from sent", "waits, from due", "keeps on, from due")


class Pair:
    """Two clients of one server, and their measurements."""

    def __init__(self, server: Replica, seconds: float) -> None:
        self.server = server
        self.seconds = seconds
        self.record = Record(began=time.monotonic_ns())
        self.own = self.record.own(SCENARIO)
        self.sent = 0
        self.faults: list[dict[str, object]] = []

    async def run(self) -> None:
        """Run both clients; freeze the server half-way."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.freeze())
            group.create_task(self.closed_loop())
            group.create_task(self.open_loop())
        self.record.wall = self.seconds

    async def freeze(self) -> None:
        await asyncio.sleep(self.seconds / 2)
        now = time.monotonic_ns()
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            self.faults.append(
                {
                    "at": round((now - self.record.began) / 1e9, 3),
                    "utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "text": f"the server is frozen for {FREEZE:g} s",
                }
            )
            await asyncio.sleep(FREEZE)
        finally:
            self.server.process.send_signal(signal.SIGCONT)

    def connection(self) -> connect:
        return connect(
            self.server.url,
            additional_headers={"Authorization": f"Bearer {self.server.token()}"},
            compression=None,
        )

    async def closed_loop(self) -> None:
        """Send a message when it is due and the previous one has come back."""
        async with self.connection() as ws:
            await join(ws, "closed")
            start = time.monotonic_ns()
            for number in range(int(self.seconds * RATE)):
                due = await until(start, number)
                sent = time.monotonic_ns()
                await self.publish(ws, "closed", due, sent)
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    while await message(ws) is None:
                        pass
                now = time.monotonic_ns()
                self.own.histogram(NAMES[0]).record((now - sent) // 1000)
                self.own.histogram(NAMES[1]).record((now - due) // 1000)

    async def open_loop(self) -> None:
        """Send a message when it is due; time the messages that come back."""
        count = int(self.seconds * RATE)
        async with self.connection() as ws:
            await join(ws, "open")

            async def hear() -> None:
                for _ in range(count):
                    while (found := await message(ws)) is None:
                        pass
                    now = time.monotonic_ns()
                    self.own.histogram(NAMES[2]).record((now - found["due"]) // 1000)

            hearing = asyncio.create_task(hear())
            start = time.monotonic_ns()
            for number in range(count):
                due = await until(start, number)
                await self.publish(ws, "open", due, time.monotonic_ns())
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await hearing

    async def publish(
        self, ws: ClientConnection, room: str, due: int, sent: int
    ) -> None:
        self.sent += 1
        payload = {"due": due, "sent": sent}
        say = {"type": "publish", "room": room, "ref": self.sent, "payload": payload}
        self.record.published[SCENARIO] += 1
        if room == "open":
            self.record.slip.record((sent - due) // 1000)
        await ws.send(to_json(say))


async def until(start: int, number: int) -> int:
    """Wait until a message is due; return its due time, in monotonic nanoseconds."""
    due = start + number * 1_000_000_000 // RATE
    await asyncio.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
    return due


async def join(ws: ClientConnection, room: str) -> None:
    """Join a room, and read up to the ``joined``."""
    await ws.send(to_json({"type": "join", "room": room, "ref": 0}))
    async with asyncio.timeout(ANSWER_TIMEOUT):
        while from_json(await ws.recv())["type"] != "joined":
            pass


async def message(ws: ClientConnection) -> dict[str, int] | None:
    """Return the payload of the next frame; None if it is not a ``message``."""
    found = from_json(await ws.recv())
    payload: dict[str, int] | None = found.get("payload")
    return payload if found["type"] == "message" else None


async def demonstrate(
    server: Replica, seconds: float, folder: Path, more: Mapping[str, Any]
) -> Path:
    """Run the demonstration; return the folder of the run.

    Args:
        server: The server; it is frozen for a while.
        seconds: Seconds of load.
        folder: Folder in which to make the run's own folder.
        more: Further entries of ``run.json``.

    Raises:
        OSError: The server is gone, or results cannot be written.
        TimeoutError: The server did not answer.

    """
    pair = Pair(server, seconds)
    now, name = datetime.now(UTC), run_name(SCENARIO)
    try:
        await pair.run()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    record = pair.record
    tally = record.tally(f"{SCENARIO}/clients")
    tally.expected = record.published[SCENARIO]
    tally.delivered = sum(pair.own.histogram(each).count for each in NAMES[1:])
    tally.lost = tally.expected - tally.delivered
    record.users["client"] = 2
    verdict = Verdict(0, "VALID", ("both clients got everything, over the freeze",))
    about = {
        "name": name,
        "started": {"utc": now.isoformat(timespec="milliseconds")},
        "faults": pair.faults,
        "load": f"2 clients, {RATE} messages/s each, {seconds:g} s, the server frozen "
        f"for {FREEZE:g} s of them",
        "machine": machine(),
        "versions": versions(),
        **more,
    }
    write(folder / name / "run.json", about)
    write(folder / name / "summary.json", as_figures(record, verdict))
    write(folder / name / "part-0.json", record.as_json())
    return folder / name
