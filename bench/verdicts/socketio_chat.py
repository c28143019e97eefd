"""A server on ``python-socketio`` and aiohttp, after the library's guide.

https://python-socketio.readthedocs.io/en/stable/server.html: a user in the session of a
client, who is refused in ``connect``; ``enter_room()``, ``leave_room()``, ``emit()`` to
a room; a Redis manager between processes. All that is Socket.IO's, and so are packets,
queues, pings and their timeout.

The adapter's are :class:`Spoken` and :func:`opened`, which stand where a socket of
Socket.IO is: they give each packet the words of the contract, one at a time, and wait
until the socket has taken it. They keep, repeat and number no message, and drop none:
only packets that open or end a connection have no words in the contract. What a client
of Socket.IO would do by itself, they do: ask for the namespace, and hang up when it is
refused. An Engine.IO ping is sent as a ping of WebSocket, and its pong comes back as
Engine.IO's, so a peer that does not answer is as silent for Socket.IO as it is.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import socketio
from aiohttp import WSMsgType, web
from engineio.async_drivers.aiohttp import WebSocket

from bench.verdicts.contract import answer, hello, message, refusal, user_of

interval = float(os.environ.get("LAB_HEARTBEAT_INTERVAL", "25"))
redis = os.environ.get("LAB_REDIS_URL")
io = socketio.AsyncServer(
    async_mode="aiohttp",
    client_manager=socketio.AsyncRedisManager(redis) if redis else None,
    ping_interval=interval,
    ping_timeout=interval,
    max_http_buffer_size=65536,
)


# The application, as the guide shows


@io.event
async def connect(sid: str, environ: dict[str, Any], _auth: object) -> None:
    headers = {
        "Authorization": environ.get("HTTP_AUTHORIZATION", ""),
        "Cookie": environ.get("HTTP_COOKIE", ""),
        "Sec-WebSocket-Protocol": environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""),
    }
    user = user_of(headers, environ["RAW_URI"])
    if user is None:
        raise socketio.exceptions.ConnectionRefusedError("a token is needed")
    await io.save_session(sid, {"user": user})
    # After the answer: a client may get events only when it is connected.
    io.start_background_task(io.emit, "hello", hello(user), to=sid)


@io.on("*")
async def said(event: str, sid: str, data: dict[str, Any]) -> None:
    data["type"] = event
    if (found := refusal(data)) is not None:
        return await io.emit("error", found, to=sid)
    if event == "join":
        await io.enter_room(sid, data["room"])
    elif event == "leave":
        await io.leave_room(sid, data["room"])
    elif event == "publish":
        session = await io.get_session(sid)
        await io.emit("message", message(data, session["user"]), room=data["room"])
    if (found := answer(data)) is not None:
        await io.emit(found["type"], found, to=sid)


# The adapter


class Spoken(WebSocket):
    """Engine.IO's socket on aiohttp, which speaks the contract outwards."""

    asked = False

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        # As in its parent, but pongs are seen.
        self._sock = web.WebSocketResponse(
            max_msg_size=self.server.max_http_buffer_size, autoping=False
        )
        await self._sock.prepare(environ["aiohttp.request"])
        self.environ = environ
        await self.handler(self)
        return self._sock

    async def wait(self) -> str | bytes:
        if not self.asked:
            self.asked = True
            return "40"
        while (got := await self._sock.receive()).type is WSMsgType.PING:
            await self._sock.pong(got.data)
        if got.type is WSMsgType.PONG:
            return "3"
        if got.type is WSMsgType.BINARY:
            return bytes(got.data)
        if got.type is not WSMsgType.TEXT:
            raise OSError
        try:
            event = json.loads(got.data)
            return "42" + json.dumps([event.pop("type"), event])
        except (ValueError, AttributeError, KeyError, TypeError):
            return f"42{got.data}"  # what is no message is Socket.IO's to judge

    async def send(self, packet: str) -> None:
        match packet[:2]:
            case "2":
                await self._sock.ping()
            case "42":
                event, data = json.loads(packet[2:])
                await self._sock.send_str(json.dumps({**data, "type": event}))
            case "44":
                await self._sock.close(code=4401, message=b"refused")
            # Its open packet and the namespace's answer: hello says it in the contract.


async def opened(request: web.Request) -> web.StreamResponse:
    asked = request.rel_url.update_query(EIO="4", transport="websocket")
    response: web.StreamResponse = await io.handle_request(request.clone(rel_url=asked))
    return response


async def main() -> None:
    io.eio._async = {**io.eio._async, "websocket": Spoken}
    application = web.Application()
    application.router.add_get("/", opened)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
