"""Every well-formed message comes back, also after a malformed one."""

from __future__ import annotations

import json
from typing import Any

from labserver.judge.world import Broken, World, must, peer

VALUES: list[Any] = [
    None, True, 0, -1.5, 12345678901234567890123, "", "\u00fc\U0001f600", [], {},
    [[[1]]], {"type": "join", "room": 3}, {"type": "hello"}, "a" * 10_000,
]  # fmt: skip


async def every_value_comes_back(world: World) -> None:
    """Every JSON value comes back unchanged."""
    async with world.running() as server, peer(server) as client:
        for value in VALUES:
            text = json.dumps(value)
            echo = f'{{"type": "echo", "payload": {text}}}'
            async with world.awaiting("an echo"):
                await client.socket.send(echo if world.includes("rooms") else text)
                got = str(await client.socket.recv())
            payload = got.removeprefix('{"type":"echo","payload":').removesuffix("}")
            must(
                got.startswith('{"type":"echo"') and payload == text,
                f"{text[:40]} came back as {payload[:40]}",
            )


async def what_is_wrong_is_answered(world: World) -> None:
    """A text that is not JSON is answered with an error; the connection stays open."""
    async with world.running() as server, peer(server) as client:
        for text in ("this is not JSON", "{", "", "NaN"):
            async with world.awaiting("the error bad_json"):
                await client.socket.send(text)
                answer = await client.recv()
            must(answer.get("code") == "bad_json", f"{text!r} was answered {answer}")
        async with world.awaiting("an echo"):
            await client.send(type="echo", payload=1)
            must((await client.recv())["type"] == "echo", "no echo afterwards")


async def huge_message_is_refused(world: World) -> None:
    """A message over the limit closes its own connection with 1009, and no other."""
    limit = 2000
    async with (
        world.running(message_size_limit=limit) as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
    ):
        await ann.send(type="echo", payload="x" * limit)
        try:
            async with world.awaiting("an end"):
                answer = await ann.socket.recv()
        except Broken as broken:
            must("closed with 1009" in str(broken), str(broken))
        else:
            raise Broken(f"{limit} bytes too many: {len(answer)} came back")
        await bob.send(type="echo", payload="x" * (limit - 40))
        async with world.awaiting("the echo of a message within the limit"):
            await bob.recv()
