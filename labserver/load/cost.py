"""``python -m labserver.load.cost``: CPU time of the generator for each message.

It measures one client process during a fan-out: 200 connections in one room, and a
publisher in another process that sends 10 messages a second. Four clients take turns,
all under gevent: a complete user of these load tests (each message is decoded, timed,
audited and reported to Locust), the client of these load tests alone (each message is
decoded and timed), and ``websocket-client`` and ``websockets.sync`` with that same
handler.

The fifth, the floor, only reads the bytes from the kernel (epoll and recv) and discards
them. Any generator in Python needs at least that much on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any
from urllib.parse import urlsplit

CLIENTS = ("user", "client", "websocket-client", "websockets.sync", "floor")
ROOM = "load.cost"
WARM_UP = 1.0  # seconds
ANSWER_TIMEOUT = 15.0


# The measured process


def client(kind: str, url: str, token: str, connections: int, seconds: float) -> None:
    """Connect, measure for ``seconds``, and print the figures as JSON."""
    from gevent import monkey

    monkey.patch_all()
    import gevent
    import psutil

    from labserver.load.figures.histogram import Histogram

    me = psutil.Process()
    latency = Histogram()
    for module in (
        "labserver.load.users.user",
        "locust.runners",
        "websocket",
        "websockets.sync.client",
    ):
        importlib.import_module(module)  # their memory is not counted
    before = me.num_fds(), me.memory_info().rss
    opened = {"user": users, "client": ours}.get(kind, rivals)
    opened(kind, url, token, connections, latency)
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while latency.count < connections and time.monotonic() < deadline:
        gevent.sleep(0.1)
    if latency.count < connections:
        print(f"only {latency.count} messages came", file=sys.stderr, flush=True)
        os._exit(1)
    gevent.sleep(WARM_UP)
    count, cpu, wall = latency.count, time.process_time(), time.monotonic()
    gevent.sleep(seconds)
    cpu, count = time.process_time() - cpu, latency.count - count
    wall = time.monotonic() - wall
    found = {
        "us": cpu / max(count, 1) * 1e6,
        "messages": count,
        "share": cpu / wall,
        "fds": (me.num_fds() - before[0]) / connections,
        "bytes": (me.memory_info().rss - before[1]) / connections,
        "p99": latency.percentile(99),
    }
    print(json.dumps(found), flush=True)
    os._exit(0)  # websockets.sync would wait for its threads


def floor(url: str, token: str, connections: int, seconds: float) -> None:
    """Read bytes from as many sockets, and print the CPU time of each read as JSON."""
    where = urlsplit(url)
    request = (
        f"GET / HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode() + bytes((0x81, 0x80 | len(JOIN), 0, 0, 0, 0))
    sockets: dict[int, socket.socket] = {}
    ready = select.epoll()
    for _ in range(connections):
        each = socket.create_connection((where.hostname, where.port))
        each.sendall(request + JOIN)
        sockets[each.fileno()] = each
        ready.register(each, select.EPOLLIN)
    buffer, count = bytearray(65536), 0
    start = time.monotonic() + 2 * WARM_UP
    cpu = 0.0
    while (now := time.monotonic()) < start + seconds:
        if not cpu and now >= start:
            cpu, count = time.process_time(), 0
        for number, _ in ready.poll(0.1):
            sockets[number].recv_into(buffer)
            count += 1
    cpu = time.process_time() - cpu
    nothing = {"fds": 1, "bytes": 0, "p99": 0, "share": cpu / seconds}
    us = cpu / max(count, 1) * 1e6
    print(json.dumps({"us": us, "messages": count, **nothing}), flush=True)


def ours(kind: str, url: str, token: str, connections: int, latency: Any) -> None:
    import gevent

    from labserver.load.dialects.lab import decode
    from labserver.load.websocket import WebSocket

    def listen() -> None:
        socket = WebSocket(url, {"Authorization": f"Bearer {token}"})
        socket.send(JOIN)

        def handle(messages: list[bytes]) -> None:
            for data in messages:
                message = decode(data)
                if hasattr(message, "payload"):
                    latency.record((socket.arrived - message.payload.due) // 1000)

        socket.listen(handle)

    for _ in range(connections):
        gevent.spawn(listen)


def rivals(kind: str, url: str, token: str, connections: int, latency: Any) -> None:
    import gevent
    import websocket
    from websockets.sync.client import connect

    from labserver.load.dialects.lab import decode

    headers = {"Authorization": f"Bearer {token}"}

    def handle(data: str | bytes) -> None:
        now = time.monotonic_ns()
        message = decode(data)
        if hasattr(message, "payload"):
            latency.record((now - message.payload.due) // 1000)

    def old() -> None:
        socket = websocket.create_connection(url, header=headers)
        socket.send(JOIN.decode())
        while True:
            handle(socket.recv())

    def sync() -> None:
        with connect(url, additional_headers=headers, compression=None) as socket:
            socket.send(JOIN.decode())
            while True:
                handle(socket.recv())

    for _ in range(connections):
        gevent.spawn(old if kind == "websocket-client" else sync)


def users(kind: str, url: str, token: str, connections: int, latency: Any) -> None:
    import gevent
    from locust.env import Environment
    from locust.runners import LocalRunner

    from labserver.load.run.life import RUN
    from labserver.load.users.user import WebSocketUser

    class CostUser(WebSocketUser):
        scenario = "cost"

    environment = Environment(user_classes=[CostUser], host=url)
    environment.parsed_options = argparse.Namespace(dialect="lab")
    environment.runner = LocalRunner(environment)
    os.environ["LAB_TOKEN"] = token
    RUN.record.latency["cost/subscribers"] = latency
    for _ in range(connections):
        user = CostUser(environment)
        user.host, user.room = url, ROOM
        user.audit.room = ROOM
        gevent.spawn(user.live)


JOIN = json.dumps({"type": "join", "room": ROOM}).encode()


# The measuring process


async def publish(url: str, token: str, rate: float) -> None:
    """Publish ``rate`` messages a second, as the load tests do, until cancelled."""
    from websockets.asyncio.client import connect

    headers = {"Authorization": f"Bearer {token}"}
    async with connect(url, additional_headers=headers) as connection:
        due = time.monotonic_ns()
        while True:
            due += round(1e9 / rate)
            await asyncio.sleep(max(0, (due - time.monotonic_ns()) / 1e9))
            stamp = {"due": due, "sent": time.monotonic_ns(), "pad": "." * 80}
            message = {"type": "publish", "room": ROOM, "payload": stamp}
            await connection.send(json.dumps(message))


async def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Run the clients in turns; return the figures of each round, by client."""
    from labserver.processes.cluster import running_replica

    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in CLIENTS}
    async with running_replica("resume", "--without", "broker") as server:
        token = server.token()
        publishing = asyncio.create_task(publish(server.url, token, options.rate))
        for _ in range(options.rounds):
            for kind in CLIENTS:
                process = await asyncio.create_subprocess_exec(
                    # Not as a file: websocket.py beside it would hide the package.
                    *(sys.executable, "-m", "labserver.load.cost", "--client", kind),
                    *("--url", server.url),
                    *("--connections", str(options.connections)),
                    *("--seconds", str(options.seconds)),
                    env={**os.environ, "LAB_TOKEN": token},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                )
                try:
                    async with asyncio.timeout(ANSWER_TIMEOUT + options.seconds):
                        out, _ = await process.communicate()
                finally:
                    if process.returncode is None:
                        process.kill()
                if process.returncode:
                    raise SystemExit(f"loadtests: the client {kind} failed, see above")
                found[kind].append(json.loads(out))
                print(f"{kind}: {found[kind][-1]['us']:.1f} us", file=sys.stderr)
        publishing.cancel()
        await asyncio.wait([publishing])
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return a table of medians, with the lowest and the highest round."""
    lines = [
        f"{'client':<18}{'us a message':>14}{'rounds':>16}{'KB a conn.':>12}"
        f"{'fds':>5}{'p99':>9}"
    ]
    for kind, rounds in found.items():
        costs = [each["us"] for each in rounds]
        lines.append(
            f"{kind:<18}{statistics.median(costs):>14.1f}"
            f"{f'{min(costs):.1f} to {max(costs):.1f}':>16}"
            f"{statistics.median(each['bytes'] for each in rounds) / 1000:>12.0f}"
            f"{statistics.median(each['fds'] for each in rounds):>5.1f}"
            f"{statistics.median(each['p99'] for each in rounds) / 1000:>6.1f} ms"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m labserver.load.cost", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--rate", type=float, default=10.0, help="messages a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        opened = floor if options.client == "floor" else partial(client, options.client)
        opened(
            options.url,
            os.environ["LAB_TOKEN"],
            options.connections,
            options.seconds,
        )
    else:
        print(table(asyncio.run(measure(options))))


if __name__ == "__main__":
    main()
