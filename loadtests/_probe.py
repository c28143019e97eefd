"""A second opinion: one connection in an otherwise idle process.

A generator that is busy times messages late. This process has one connection and does
nothing but read it, so that what it sees is the server's: ``--probe`` runs it beside a
load, and the summary shows both. It uses no code of the clients that it checks.

    python _probe.py URL ROOM     token in LAB_TOKEN, ends with its standard input
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from _hist import Histogram
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def listen(url: str, room: str) -> Histogram:
    """Return the latencies from due of a room's messages, up to the end of stdin."""
    latency = Histogram()
    headers = {"Authorization": f"Bearer {os.environ['LAB_TOKEN']}"}
    with connect(url, additional_headers=headers, compression=None) as connection:
        connection.send(json.dumps({"type": "join", "room": room}))

        def end() -> None:
            sys.stdin.buffer.read()
            connection.close()

        threading.Thread(target=end, daemon=True).start()
        try:
            for text in connection:
                now = time.monotonic_ns()
                message = json.loads(text)
                if message["type"] == "message":
                    latency.record((now - message["payload"]["due"]) // 1000)
                elif message["type"] == "joined":
                    print("joined", flush=True)
        except ConnectionClosed:
            pass
    return latency


if __name__ == "__main__":
    print(json.dumps(listen(*sys.argv[1:]).as_json()), flush=True)
