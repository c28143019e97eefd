"""A rival on python-socketio (with aiohttp), with its rooms and packets.

The messages of the contract are Socket.IO events of the same names.
"""

from __future__ import annotations

import asyncio
from typing import Any

import socketio
from aiohttp import web

# A long ping interval, because an Engine.IO ping is a message and would be counted.
io = socketio.AsyncServer(async_mode="aiohttp", ping_interval=600)


@io.event
async def connect(sid: str, _environ: dict[str, Any]) -> None:
    # After the answer: a client may get events only when it is connected.
    io.start_background_task(io.emit, "hello", {}, to=sid)


@io.event
async def join(sid: str, message: dict[str, Any]) -> None:
    await io.enter_room(sid, message["room"])
    await io.emit("joined", {"room": message["room"]}, to=sid)


@io.event
async def publish(_sid: str, message: dict[str, Any]) -> None:
    await io.emit("message", message, room=message["room"])


async def main() -> None:
    application = web.Application()
    io.attach(application)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    port = runner.addresses[0][1]
    print(f"listening on ws://127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
