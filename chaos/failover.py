"""What a Redis Cluster loses when a primary is killed: ``python -m chaos.failover``.

Redis answers before it replicates, so what was acknowledged in the last moment of a
primary can be gone with it. This measures how much: 64 publishers, each waiting for
its acknowledgement, a primary killed with -9, again and again; then it asks the room
for everything that was acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from functools import partial

from chaos.redis_cluster import RedisCluster, redis_cluster
from labserver.judge.world import SECRET, Peer, peer, until
from labserver.server.server import LabServer
from labserver.settings import Settings
from labserver.stages import build

PUBLISHERS = 64


async def publish(client: Peer, name: str, acknowledged: dict[str, int]) -> None:
    """Publish as often as it is acknowledged, until it is not."""
    number = 0
    while True:
        number += 1
        text = f"{name} {number}"
        answer = await client.ask(type="publish", room="red", payload=text)
        if answer["type"] != "ack":
            return
        acknowledged[text] = answer["seq"]


async def publishes(client: Peer) -> bool:
    answer = await client.ask(type="publish", room="red", payload="")
    return bool(answer["type"] == "ack")


async def killed_once(cluster: RedisCluster) -> tuple[int, int, float]:
    """Return messages acknowledged, those of them lost, and seconds of silence."""
    settings = Settings(secret=SECRET, redis=cluster.url, history_limit=100_000)
    server = LabServer(build("resume", settings), settings, "resume")
    acknowledged: dict[str, int] = {}
    async with server, peer(server) as ann:
        await until(partial(publishes, ann))
        joined = await ann.ask(type="join", room="red")
        await ann.ask(type="leave", room="red")
        clients = [peer(server, f"user{n}") for n in range(PUBLISHERS)]
        peers = [await each.__aenter__() for each in clients]
        publishing = [
            asyncio.create_task(publish(each, str(n), acknowledged))
            for n, each in enumerate(peers)
        ]
        await asyncio.sleep(1)
        (await cluster.owner("red")).stop()
        died = time.monotonic()
        await asyncio.gather(*publishing)
        await until(partial(publishes, ann))
        silence = time.monotonic() - died
        broker = server.parts.broker
        kept: dict[int, str] = {}
        after = joined["seq"]
        while True:
            page = (await broker.histories.page("red", after)).kept
            if not page:
                break
            kept |= {each.first: each.json.decode() for each in page}
            after = page[-1].last
        lost = sum(
            f'"payload":"{text}"' not in kept.get(seq, "")
            for text, seq in acknowledged.items()
        )
        for each in clients:
            await each.__aexit__(None, None, None)
    return len(acknowledged), lost, silence


async def main(times: int) -> None:
    for number in range(times):
        async with redis_cluster() as cluster:
            acknowledged, lost, silence = await killed_once(cluster)
        print(
            f"{number + 1}: {acknowledged} acknowledged, {lost} of them lost, "
            f"publishing again after {silence:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    asyncio.run(main(parser.parse_args().times))
