"""The peers of the chapters: sending and receiving."""

from __future__ import annotations

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from labserver.notebook.peers import Peer


async def test_peer_speaks_utf_8_and_goes_on_after_what_it_cannot_read() -> None:
    heard: list[str | bytes] = []

    async def says(connection: ServerConnection) -> None:
        heard.append(await connection.recv())
        for text in ("{", "[" * 100_000, '{"type":"pong","n":%s}' % ("9" * 5000)):
            await connection.send(text)
        await connection.send('{"type":"pong"}')

    async with serve(says, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}") as connection:
            peer = Peer(connection, {})
            await peer.send(type="echo", payload="\u4e2d")
            await peer.listen()
    assert heard == ['{"type":"echo","payload":"\u4e2d"}']
    assert [message["type"] for message in peer.received] == ["pong", "pong"]
    assert len(peer.arrived) == 2
