"""A reconnect storm: a replica is killed, and its clients reconnect.

    python -m chaos.storm --clients 5000

Clients are spread over three replicas, and one of them is killed. Its clients reconnect
to the other two, which admit a limited number of handshakes a second and refuse the
rest with Retry-After. The result is the peak of accepted handshakes, the time until 99
% are back, and the messages that they missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from labserver.client import Backoff, Client
from labserver.contract.tokens import issue
from labserver.judge.oracle import Oracle, lost
from labserver.processes.cluster import Replica, running_cluster

SECRET = "a storm is signed with this secret, as long as any"
ROOM = "lobby"
BUCKET = 0.1  # seconds
AT_ONCE = 100  # clients that connect at the same time at the start


@dataclass
class Report:
    """The result of a storm; times in seconds since the kill."""

    clients: int
    stranded: int
    peak: int  # handshakes accepted in any BUCKET
    back_99: float
    back_all: float
    refused: int  # handshakes that were refused
    missed: int  # messages neither delivered nor announced as lost
    unclean: int  # clients whose oracle found a fault

    def __str__(self) -> str:
        return (
            f"{self.stranded} of {self.clients} clients lost their replica\n"
            f"peak {self.peak} handshakes accepted in {BUCKET * 1000:g} ms, "
            f"{self.refused} refused\n"
            f"99 % back after {self.back_99:.1f} s, all after {self.back_all:.1f} s\n"
            f"missed {self.missed} messages, {self.unclean} clients saw a fault"
        )


class Member:
    """A client that records when it is back."""

    def __init__(self, replicas: Sequence[Replica], home: int, jitter: bool) -> None:
        self.replicas = replicas
        self.home = home
        self.oracle = Oracle()
        self.back: list[float] = []
        backoff = Backoff() if jitter else NoJitter()
        self.client = Client(self.choose, lambda: self.token, backoff=backoff)

    def choose(self) -> str:
        """Return the home replica's URL at first, later a random other one."""
        if not self.client.connects:
            return self.replicas[self.home].url
        others = [r for i, r in enumerate(self.replicas) if i != self.home]
        return random.choice(others).url

    @property
    def token(self) -> str:
        return issue(SECRET, f"user-{id(self)}")

    async def listen(self) -> None:
        async for message in self.client:
            self.oracle.saw(message)
            if message["type"] == "joined":
                self.back.append(time.monotonic())


class NoJitter(Backoff):
    """A back-off without jitter, as many clients have it: all wait equally long."""

    def next(self, draw: Callable[[], float] = lambda: 1.0) -> float:
        return super().next(lambda: 1.0)


async def storm(
    clients: int, *, admission_rate: float = 500.0, jitter: bool = True
) -> Report:
    """Kill one of three replicas, and watch its clients reconnect."""
    settings = ("--admission-rate", str(admission_rate))
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            running_cluster(3, "resume", *settings, secret=SECRET)
        )
        members = [Member(cluster.replicas, n % 3, jitter) for n in range(clients)]
        for start in range(0, clients, AT_ONCE):
            batch = members[start : start + AT_ONCE]
            await asyncio.gather(
                *(stack.enter_async_context(each.client) for each in batch)
            )
            await asyncio.gather(*(each.client.join(ROOM) for each in batch))
        listening = [asyncio.create_task(each.listen()) for each in members]
        stack.callback(lambda: [task.cancel() for task in listening])
        speaker = await stack.enter_async_context(
            Client(cluster.replicas[1].url, issue(SECRET, "speaker"))
        )
        seqs: list[int] = []
        stranded = [each for each in members if each.home == 0]
        refused = await turned_away(cluster.replicas[1:])
        await cluster.replicas[0].stop(signal.SIGKILL)
        killed = time.monotonic()
        deadline = killed + 60 + 4 * len(stranded) / admission_rate
        while sum(each.client.connects < 2 for each in stranded):
            if time.monotonic() > deadline:
                break
            seqs.append((await speaker.publish(ROOM, len(seqs)))["seq"])
            await asyncio.sleep(0.5)
        seqs.append((await speaker.publish(ROOM, "the end"))["seq"])
        while any(lost(each.oracle, ROOM, seqs[-1:]) for each in members):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        back = sorted(at - killed for m in stranded for at in m.back if at > killed)
        accepted = Counter(int(at / BUCKET) for at in back)
        return Report(
            clients=clients,
            stranded=len(stranded),
            peak=max(accepted.values(), default=0),
            back_99=back[int(len(stranded) * 0.99) - 1] if back else float("inf"),
            back_all=back[-1] if len(back) >= len(stranded) else float("inf"),
            refused=await turned_away(cluster.replicas[1:]) - refused,
            missed=sum(len(lost(each.oracle, ROOM, seqs)) for each in members),
            unclean=sum(not each.oracle.verdict.clean for each in members),
        )


async def turned_away(replicas: Sequence[Replica]) -> int:
    """Return how many handshakes were answered with 503."""
    total = 0
    for replica in replicas:
        try:
            name = 'labserver_handshakes_refused_total{status="503"}'
            total += int(await replica.metric(name))
        except KeyError:
            continue  # none yet
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        "chaos.storm", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--clients", type=int, default=5000, help="default 5000")
    parser.add_argument(
        "--rate", type=float, default=500, help="admission; default 500"
    )
    parser.add_argument("--no-jitter", action="store_true", help="wait without jitter")
    chosen = parser.parse_args()
    report = asyncio.run(
        storm(chosen.clients, admission_rate=chosen.rate, jitter=not chosen.no_jitter)
    )
    print(report)
    return int(report.missed > 0 or report.unclean > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
