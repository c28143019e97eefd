"""What it costs to publish with ``--confirm-replicas 1``, beside without it.

    python -m bench.confirm [--rounds 5]

A primary and a replica of Redis run on this machine, and one replica of the server
publishes to eight rooms. The rounds with and without confirmations are in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack
from statistics import median

from msgspec import Raw
from redis.asyncio import Redis

from labserver.contract.messages import body
from labserver.judge.world import until
from labserver.processes.ports import free_ports
from labserver.processes.serving import run
from labserver.redis.embedded import embedded_redis
from labserver.server.hub import Hub
from labserver.server.metrics import Metrics
from labserver.stages.broker import RedisBroker
from labserver.stages.resume import RecentHistory

ROOMS = 8
TAIL = body("ann", Raw(b'"%b"' % (b"x" * 150)))
AT_ONCE = ("--repl-diskless-sync-delay", "0")

Figures = tuple[float, float, float]  # CPU (us a message), p50 and p99 (ms)


async def published(url: str, confirm: int, flying: int, seconds: float) -> Figures:
    """Publish with some messages in flight; return what one of them cost."""
    broker, metrics = RedisBroker(url, confirm), Metrics()
    hub = Hub(metrics, broker.unsubscribe, lambda room: None)
    await broker.start(hub, RecentHistory(1000, 300.0, 2**20), metrics)
    took: list[float] = []
    try:
        rooms = [f"room-{number}" for number in range(ROOMS)]
        for room in rooms:
            await broker.subscribe(room)
            await broker.read(room, None)
        end, cpu = time.monotonic() + seconds, time.process_time()

        async def publish(room: str) -> None:
            while (began := time.monotonic()) < end:
                await broker.publish(room, TAIL)
                took.append(time.monotonic() - began)

        await asyncio.gather(*(publish(rooms[n % ROOMS]) for n in range(flying)))
        cpu = time.process_time() - cpu
    finally:
        await broker.stop()
    took.sort()
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    return cpu / len(took) * 1e6, p50 * 1e3, p99 * 1e3


async def main(rounds: int, seconds: float) -> None:
    first, second = free_ports(2)
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(
            embedded_redis("--port", str(first), *AT_ONCE)
        )
        await stack.enter_async_context(
            embedded_redis(
                *("--port", str(second), *AT_ONCE, "--replicaof", f"127.0.0.1 {first}")
            )
        )
        async with Redis.from_url(primary.url, single_connection_client=True) as redis:

            async def copied() -> bool:
                await redis.set(
                    "copied", 1
                )  # WAIT is about the connection's own writes
                return bool(await redis.wait(1, 1000))

            await until(copied)
        print("| in flight | confirmed | CPU, us | p50, ms | p99, ms |")
        print("|---|---|---|---|---|")
        for flying in (1, 64):
            found: dict[int, list[Figures]] = {0: [], 1: []}
            for number in range(rounds):
                for confirm in (0, 1) if number % 2 else (1, 0):
                    figures = await published(primary.url, confirm, flying, seconds)
                    found[confirm].append(figures)
            for confirm, each in found.items():
                middle = (median(figure) for figure in zip(*each, strict=True))
                shown = " | ".join(f"{figure:.2f}" for figure in middle)
                print(f"| {flying} | {'yes' if confirm else 'no'} | {shown} |")
            pairs = zip(found[0], found[1], strict=True)
            ratios = [[b / a for a, b in zip(*pair, strict=True)] for pair in pairs]
            words = (
                f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
                for each in zip(*ratios, strict=True)
            )
            print(f"| {flying} | ratio | {' | '.join(words)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "bench.confirm", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    chosen = parser.parse_args()
    run(main(chosen.rounds, chosen.seconds))
