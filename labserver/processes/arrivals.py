"""Messages that arrive at Redis at Poisson due times, as those of many replicas do.

They are published by the publisher that replicas have, over several connections, in a
process of its own. Its loop waits with ``select()``, in microseconds: with ``epoll`` an
event loop waits in whole milliseconds, and messages would come in groups.

A run is one line of input, ``rate seconds seed``, and one line of output, the fields of
:class:`Arrivals` as JSON::

    python -m labserver.processes.arrivals URL PREFIX ROOMS
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial

from msgspec import Raw

from labserver.contract.messages import body
from labserver.redis.embedded import end_with_parent
from labserver.server.hub import Hub
from labserver.server.metrics import Metrics
from labserver.settings import Settings
from labserver.stages.broker import RedisBroker
from labserver.stages.resume import RecentHistory

CONNECTIONS = 16
TAIL = body("ann", Raw(b'"' + b"x" * 100 + b'"'))


@dataclass(frozen=True)
class Arrivals:
    """What was published.

    Attributes:
        count: Messages.
        late: Seconds between a message's due time and its publishing; the median.

    """

    count: int
    late: float


async def publish(
    brokers: Sequence[RedisBroker],
    rooms: Sequence[str],
    rate: float,
    seconds: float,
    seed: int,
) -> Arrivals:
    """Publish at Poisson due times, each message in a random room.

    Returns when Redis has numbered all of them.
    """
    draw, loop = random.Random(seed), asyncio.get_running_loop()
    start, due = loop.time(), draw.expovariate(rate)
    late, stored = list[float](), list[asyncio.Future[int]]()
    while due < seconds:
        await asyncio.sleep(start + due - loop.time())
        while due < min(seconds, loop.time() - start):
            late.append(loop.time() - start - due)
            stored.append(draw.choice(brokers).publish(draw.choice(rooms), TAIL))
            due += draw.expovariate(rate)
    await asyncio.gather(*stored)
    late.sort()
    return Arrivals(len(late), late[len(late) // 2] if late else 0.0)


async def serve(url: str, prefix: str, count: str) -> None:
    """Answer each line of standard input with a run, until it ends."""
    rooms = [f"{prefix}{number}" for number in range(int(count))]
    usual = Settings()
    history = RecentHistory(usual.history_limit, usual.history_ttl, usual.outbox_limit)
    async with AsyncExitStack() as stack:
        brokers = []
        for _ in range(CONNECTIONS):
            broker, metrics = RedisBroker(url), Metrics()
            await broker.start(Hub(metrics, lambda room: None), history, metrics)
            stack.push_async_callback(broker.stop)
            brokers.append(broker)
        while line := await asyncio.to_thread(sys.stdin.readline):
            rate, seconds, seed = line.split()
            run = publish(brokers, rooms, float(rate), float(seconds), int(seed))
            print(json.dumps(asdict(await run)), flush=True)


Arrive = Callable[[float, float, int], Awaitable[Arrivals]]


@asynccontextmanager
async def arriving(url: str, prefix: str, rooms: int) -> AsyncIterator[Arrive]:
    """Run the process; the block gets a function of rate, seconds and seed.

    Args:
        url: URL of Redis.
        prefix: Beginning of the rooms' names; their numbers follow, from 0.
        rooms: Number of rooms.

    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver.processes.arrivals"),
        *(url, prefix, str(rooms)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
    )
    assert process.stdin is not None and process.stdout is not None
    reader, writer = process.stdout, process.stdin

    async def arrive(rate: float, seconds: float, seed: int) -> Arrivals:
        if not rate:
            await asyncio.sleep(seconds)
            return Arrivals(0, 0.0)
        writer.write(f"{rate} {seconds} {seed}\n".encode())
        return Arrivals(**json.loads(await reader.readline()))

    try:
        yield arrive
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def main() -> None:
    """Serve with the arguments of the command line."""
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(serve(*sys.argv[1:]))


if __name__ == "__main__":
    main()
