"""Messages lost when a primary of a cluster is killed: ``python -m chaos.failover``.

Redis answers before it replicates, so writes of a primary's last moment can be lost
although they were acknowledged. This measures how many: 64 publishers each wait for
their acks, a primary is killed with SIGKILL, and then the room's history is searched
for every acknowledged message. That is repeated.
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
    """Publish messages, each after the ack of the previous one, until one fails."""
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
    """Return acknowledged messages, how many were lost, and seconds without an ack."""
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
    parser = argparse.ArgumentParser(
        "chaos.failover", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--times", type=int, default=5)
    asyncio.run(main(parser.parse_args().times))
