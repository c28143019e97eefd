"""The life of a connection leaves nothing for the garbage collector.

Objects are counted, and not what a collection finds: it does not count a parser that
refers to itself, because a generator frees such a cycle when it is finalized.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from labserver.contract.tokens import issue
from labserver.server.server import LabServer
from tests.conftest import SECRET, Running, eventually
from tests.server.test_connection import ENDS
from tests.support.raw_sockets import PING, bearer, masked, raw, raw_peer, said, upgrade

ROUNDS = 5
REQUESTS = {
    "no token": upgrade(),
    "bad token": upgrade("/", bearer("a.b.c")),
    "expired token": upgrade("/", bearer(issue(SECRET, "ann", ttl=-1))),
    "a page": upgrade("/healthz", "Upgrade: none"),
    "not HTTP": b"\x16\x03\x01\r\n\r\n",
    "half a request": b"GET / HTTP/1.1\r\nHo",
    "too long": b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000,
    "no key": upgrade("/", bearer(), "Sec-WebSocket-Key: 1"),
    "no such protocol": upgrade("/", bearer(), "Sec-WebSocket-Protocol: ,,"),
}


@pytest.fixture(autouse=True)
def freshly_counted() -> Iterator[None]:
    """Count no object of other tests: there are many, and each is looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.enable()
    gc.unfreeze()


def ours() -> Counter[str]:
    """Count the objects that live, by type: those of the server and its libraries."""
    kinds = Counter(type(each) for each in gc.get_objects())
    return Counter(
        {
            f"{kind.__module__}.{kind.__qualname__}": count
            for kind, count in kinds.items()
            if f"{kind.__module__}".startswith(("labserver", "websockets"))
            or kind.__qualname__ == "generator"
        }
    )


def grown(before: Counter[str]) -> dict[str, int]:
    """Return the types of which each round left an object, and how many are left."""
    now = ours()
    return {
        kind: count - before[kind]
        for kind, count in now.items()
        if count - before[kind] >= ROUNDS
    }


async def live(server: LabServer, end: bytes) -> None:
    """Connect, use everything, and end in some way."""
    async with raw_peer(server) as client:
        for message in (
            {"type": "join", "room": "a", "presence": True, "ref": 1},
            {"type": "publish", "room": "a", "payload": 1, "key": "k", "ref": 2},
            {"type": "join", "room": "a", "after": {"epoch": "x", "seq": 1}},
            {"type": "leave", "room": "a", "ref": 3},
            {"type": "refresh", "token": issue(SECRET, "ann")},
            {"type": "nonsense"},
        ):
            client.send(said(**message))
        client.send(masked(PING, b"1"))
        client.send(end)
        await client.close_code()


async def ask(server: LabServer, request: bytes) -> None:
    async with raw(server, request) as client:
        if request.endswith(b"\r\n\r\n"):
            await client.rest()


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_connection_leaves_nothing_however_it_ends(
    running: Running, without: tuple[str, ...]
) -> None:
    async with running("resume", without=without, message_rate_limit=0) as server:

        async def rounds(count: int, name: str) -> None:
            for _ in range(count):
                if name in ENDS:
                    await live(server, ENDS[name] or masked(8, b"\x03\xe8"))
                else:
                    await ask(server, REQUESTS[name])
            await eventually(lambda: not server.sockets and not server.conversations)
            await asyncio.sleep(0)

        left = {}
        for name in (*ENDS, *REQUESTS):
            await rounds(1, name)  # what is made once, such as caches
            gc.collect()
            gc.disable()
            before = ours()
            await rounds(ROUNDS, name)
            # Tasks of the server itself come and go meanwhile.
            with contextlib.suppress(TimeoutError):
                await eventually(lambda: not grown(before), within=2.0)  # noqa: B023
            if more := grown(before):
                left[name] = more
        assert not left


async def test_idle_connection_keeps_no_task_and_no_request(running: Running) -> None:
    """Both are larger than all else that an idle connection needs."""
    async with running("resume", without=("broker",)) as server:

        def held() -> Counter[str]:
            kinds = ("coroutine", "Task", "Headers", "Request")
            found = Counter(type(each).__name__ for each in gc.get_objects())
            return Counter({kind: found[kind] for kind in kinds})

        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(raw_peer(server))
            before = held()
            for _ in range(ROUNDS):
                client = await stack.enter_async_context(raw_peer(server))
                client.send(said(type="ping", ref=1))
                assert (await client.message())["type"] == "pong"
            await eventually(lambda: not server.conversations)
            more = {kind: n - before[kind] for kind, n in held().items()}
            assert {kind: n for kind, n in more.items() if n >= ROUNDS} == {}
