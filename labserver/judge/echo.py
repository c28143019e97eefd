"""Every well-formed message comes back, also after a malformed one."""

from __future__ import annotations

import json
from typing import Any

from labserver.judge.evidence import note
from labserver.judge.peers import understood
from labserver.judge.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NAMES,
    PING,
    PONG,
    TEXT,
    Raw,
    raw,
)
from labserver.judge.world import Broken, World, must, peer

VALUES: list[Any] = [
    None, True, 0, -1.5, 12345678901234567890123, "", "\u00fc\U0001f600", [], {},
    [[[1]]], {"type": "join", "room": 3}, {"type": "hello"}, "a" * 10_000,
]  # fmt: skip
LIMIT = 65536  # bytes of a message, by the wire contract
ECHO = b'{"type":"echo","payload":1}'


async def hello_comes_first(world: World) -> None:
    """The first message is a hello, which names the connection and its user."""
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
    ):
        for hello in (ann.hello, bob.hello):
            kind = hello["type"]
            must(kind == "hello", f"the first message is {kind!r}, not 'hello'")
            for name in ("id", "user"):
                got = hello[name]
                must(isinstance(got, str), f"{name} of hello is {got!r:.40}, no string")
            must("heartbeat" in hello, "hello says nothing of the heartbeat")
            told = hello["heartbeat"]
            must(
                told is None or isinstance(told, int | float),
                f"heartbeat of hello is {told!r:.40}, neither seconds nor null",
            )
        must(ann.hello["id"] != bob.hello["id"], "two connections have the same id")


async def every_value_comes_back(world: World) -> None:
    """Every JSON value comes back unchanged."""
    async with world.running() as server, peer(server) as client:
        for value in VALUES:
            text = json.dumps(value)
            echo = f'{{"type": "echo", "payload": {text}}}'
            async with world.awaiting("an echo"):
                await client.say(echo if world.includes("rooms") else text)
                got = str(await client.socket.recv())
            note(client.name, "received", got)
            _must_be_echo(text, got, bare=not world.includes("rooms"))


def _must_be_echo(text: str, got: str, bare: bool) -> None:
    """Compare what is written, since 1 and 1.0 are equal for a decoder.

    Spaces between the parts of a message, and how a text is escaped, are free.
    """
    try:
        answer = json.loads(got, parse_int=str, parse_float=str)
    except ValueError:
        raise Broken(f"{text[:40]} came back as {got[:60]!r}, no JSON") from None
    must(
        isinstance(answer, dict) and answer.get("type") == "echo",
        f"{text[:40]} was answered {got[:60]}, no echo"
        + " (before stage rooms every value is echoed: LAB_STAGE is the stage)" * bare,
    )
    got_back = answer.get("payload", "nothing")
    payload = json.dumps(got_back, ensure_ascii=False)
    whole = not bare and isinstance(got_back, dict) and got_back.get("type") == "echo"
    must(
        got_back == json.loads(text, parse_int=str, parse_float=str),
        f"{text[:40]} came back as {_bare(payload)[:40]}"
        + " (from stage rooms on only the payload is echoed: LAB_STAGE is the stage)"
        * whole,
    )


def _bare(payload: str) -> str:
    """Return a number without the quotes that kept its digits."""
    return payload.strip('"') if payload.strip('"-')[:1].isdigit() else payload


async def what_is_wrong_is_answered(world: World) -> None:
    """A text that is not JSON is answered with an error; the connection stays open."""
    async with world.running() as server, peer(server) as client:
        for text in ("this is not JSON", "{", "", "NaN"):
            async with world.awaiting("the error bad_json"):
                await client.say(text)
                answer = await client.recv()
            must(answer.get("code") == "bad_json", f"{text!r} was answered {answer}")
        async with world.awaiting("an echo"):
            await client.send(type="echo", payload=1)
            must((await client.recv())["type"] == "echo", "no echo afterwards")


async def huge_message_is_refused(world: World) -> None:
    """A message over the limit closes its own connection with 1009, and no other."""
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
    ):
        try:
            async with world.awaiting("an end"):
                await ann.send(type="echo", payload="x" * 2 * LIMIT)
                answer = await ann.socket.recv()
        except Broken as broken:
            must("closed with 1009" in str(broken), str(broken))
        else:
            raise Broken(
                f"a message of {2 * LIMIT} bytes, where {LIMIT} may be, is "
                f"{LIMIT} bytes too many: {len(answer)} came back"
            )
        together = b"x" * (LIMIT * 3 // 4)  # each of two fragments is within the limit
        async with raw(server, "cat") as cat, world.awaiting("an end of fragments"):
            cat.frame(TEXT, ECHO[:-2] + b'"' + together, fin=False)
            cat.frame(CONTINUATION, together + b'"}')
            size = 2 * len(together)
            while (got := await _next(cat, "without a close"))[0] != CLOSE:
                must(
                    got[0] != TEXT,
                    f"fragments of {size} bytes together, where {LIMIT} may be, are "
                    f"one message that is too long: {len(got[1])} bytes came back",
                )
            code = _code(got[1])
            must(code == 1009, f"fragments of {size} bytes were closed with {code}")
        async with world.awaiting("the echo of a message within the limit"):
            text = '{"type":"echo","payload":"%s"}'
            await bob.say(text % ("x" * (LIMIT - len(text) + 2)))
            await bob.recv()


async def fragments_are_one_message(world: World) -> None:
    """A frame may come in pieces, and a message in frames with a ping between them."""
    async with world.running() as server, raw(server, "ann") as ann:
        pieces = "a frame that came in pieces"
        async with world.awaiting(f"the echo of {pieces}"):
            await ann.in_pieces(TEXT, ECHO)
            while (got := await _next(ann, f"after {pieces}"))[0] != TEXT:
                pass
            must(b'"echo"' in got[1], f"{pieces} was answered {got[1][:80]!r}")
        payload = "in three parts, \u20ac"
        said = {"type": "echo", "payload": payload}
        text = json.dumps(said, ensure_ascii=False).encode()
        cut = text.index("\u20ac".encode()) + 1  # in the middle of a character
        async with world.awaiting("a pong, and the echo of a message in fragments"):
            ann.frame(TEXT, text[:9], fin=False)
            ann.frame(PING, b"between")
            ann.frame(CONTINUATION, text[9:cut], fin=False)
            ann.frame(CONTINUATION, text[cut:])
            came: dict[int, bytes] = {}
            while not {PONG, TEXT} <= came.keys():
                opcode, data = await _next(ann, "after fragments of a message")
                must(opcode != CLOSE, f"fragments were closed with {_code(data)}")
                came[opcode] = data
        must(came[PONG] == b"between", f"the pong says {came[PONG]!r}, not b'between'")
        # At stage echo all that was said comes back, later its payload.
        came_back = json.dumps(understood(came[TEXT]), ensure_ascii=False)
        must(payload in came_back, f"{came_back[:80]} came back")


async def what_is_no_text_ends_its_connection(world: World) -> None:
    """A binary frame ends its connection with 1003, bad UTF-8 with 1007; no other."""
    async with world.running() as server, peer(server, "bob") as bob:
        for opcode, data, code in ((BINARY, ECHO, 1003), (TEXT, ECHO + b"\xff", 1007)):
            async with raw(server, "ann") as ann:
                ann.frame(opcode, data)
                async with world.awaiting(f"a close with {code}"):
                    while (frame := await _next(ann, "without a close"))[0] != CLOSE:
                        pass
                got = _code(frame[1])
                must(got == code, f"{NAMES[opcode]} {data!r} was closed with {got}")
        async with world.awaiting("the echo to another client"):
            await bob.send(type="echo", payload=1)
            await bob.recv()


async def close_is_answered(world: World) -> None:
    """Who says goodbye is answered, and the connection ends."""
    async with world.running() as server, raw(server, "ann") as ann:
        ann.frame(CLOSE, b"\x03\xe8bye")
        async with world.awaiting("the answer to a close frame"):
            while (frame := await _next(ann, "without a close frame"))[0] != CLOSE:
                pass
        code = _code(frame[1])
        must(code == 1000, f"1000 was answered with {code}")
        must(await ann.ended(quiet=world.patience), "the connection stays open")


def _code(data: bytes) -> int:
    """Return the code of a close frame."""
    return int.from_bytes(data[:2], "big")


async def _next(client: Raw, when: str) -> tuple[int, bytes]:
    try:
        return await client.receive()
    except EOFError:
        raise Broken(f"the connection ended {when}") from None
