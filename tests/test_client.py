"""The client that comes back: when, where to, and with what it missed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from labserver.client import QUEUE, Backoff, Client, Rejected, ServerError
from labserver.contract import closing
from labserver.contract.tokens import issue
from labserver.judge.oracle import Oracle
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer

pytestmark = pytest.mark.loops("uvloop", "asyncio")

AT_ONCE = {"first": 0.0, "cap": 0.0}
HELLO = {"type": "hello", "id": "x", "user": "ann", "stage": "", "replica": "r"}


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    async with asyncio.timeout(4 * DEADLINE):
        yield


class Scripted:
    """A server that does with its n-th connection what the n-th line says."""

    def __init__(self, script: list[Callable[[ServerConnection], Awaitable[Any]]]):
        self.script = script
        self.requests: list[Request] = []
        self.statuses: dict[int, tuple[int, dict[str, str]]] = {}
        self.url = ""

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        refusal = self.statuses.get(len(self.requests))
        if refusal is None:
            return None
        status, headers = refusal
        fields = Headers({"Content-Length": "0", "Connection": "close", **headers})
        return Response(status, HTTPStatus(status).phrase, fields, b"")

    async def converse(self, connection: ServerConnection) -> None:
        await connection.send(json.dumps(HELLO))
        await self.script[len(self.requests) - 1](connection)


@asynccontextmanager
async def scripted(
    *script: Callable[[ServerConnection], Awaitable[Any]],
    statuses: dict[int, tuple[int, dict[str, str]]] | None = None,
) -> AsyncIterator[Scripted]:
    lines = Scripted([*script])
    lines.statuses = statuses or {}
    async with serve(
        lines.converse, "127.0.0.1", 0, process_request=lines.refuse, close_timeout=1
    ) as server:
        lines.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield lines


def closes(code: int, reason: str = "") -> Callable[[ServerConnection], Awaitable[Any]]:
    return lambda connection: connection.close(code, reason)


def closes_later(
    code: int, reason: str = ""
) -> Callable[[ServerConnection], Awaitable[Any]]:
    async def line(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(code, reason)

    return line


async def stays(connection: ServerConnection) -> None:
    """Answer every request with a pong."""
    async for text in connection:
        ref = json.loads(text)["ref"]
        await connection.send(json.dumps({"type": "pong", "ref": ref}))


async def breaks(connection: ServerConnection) -> None:
    """Break the connection when something is asked."""
    await connection.recv()
    connection.transport.abort()


# Backoff


def test_first_delay_is_drawn_from_the_whole_range() -> None:
    assert Backoff(first=0.5).next(lambda: 0.0) == 0.0
    assert Backoff(first=0.5).next(lambda: 1.0) == 0.5
    random.seed(1)
    delays = [Backoff(first=0.5).next() for _ in range(1000)]
    tenths = [sum(low <= delay * 20 < low + 1 for delay in delays) for low in range(10)]
    assert sum(tenths) == 1000
    assert min(tenths) > 60


def test_ceiling_doubles_up_to_the_cap() -> None:
    backoff = Backoff(first=0.5, cap=20)
    ceilings = [backoff.next(lambda: 1.0) for _ in range(8)]
    assert ceilings == [0.5, 1, 2, 4, 8, 16, 20, 20]


def test_cap_is_applied_before_the_jitter() -> None:
    # Applied after it, nine of ten clients wait exactly as long as the cap.
    backoff = Backoff(first=0.5, cap=20)
    backoff.attempt = 1000
    assert backoff.next(lambda: 0.5) == 10.0
    assert len({backoff.next() for _ in range(100)}) == 100


def test_only_a_stable_connection_resets_the_ceiling() -> None:
    backoff = Backoff(first=1, cap=20, stable=10)
    for _ in range(3):
        backoff.next()
    backoff.lasted(9.9)
    assert backoff.next(lambda: 1.0) == 8
    backoff.lasted(10)
    assert backoff.next(lambda: 1.0) == 1


# Close codes and refusals


@pytest.mark.parametrize("code", [1003, 1007, 1009, 4403, 4400, 4999])
async def test_client_stays_away_after_a_final_code(code: int) -> None:
    async with (
        scripted(closes_later(code, "why")) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(ConnectionError):
            await client.ping()
        with pytest.raises(Rejected, match=f"{code} why"):
            async for _ in client:
                pass
        assert client.latest_close == code
        with pytest.raises(Rejected):
            await client.ping()
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 4408, 4409, 4429])
async def test_client_comes_back_after_a_passing_code(code: int) -> None:
    async with (
        scripted(closes(code), stays) as server,
        Client(server.url, backoff=Backoff(**AT_ONCE)) as client,
    ):
        await eventually(lambda: client.connects == 2)
        assert client.latest_close == code
        await client.ping()


async def test_client_comes_back_when_the_connection_breaks() -> None:
    async def aborts(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with (
        scripted(aborts, stays) as server,
        Client(server.url, backoff=Backoff(**AT_ONCE)) as client,
    ):
        await eventually(lambda: client.connects == 2)


async def test_who_is_sent_away_at_once_may_not_even_enter() -> None:
    async with scripted(closes(4403)) as server:
        with pytest.raises(Rejected):
            async with Client(server.url) as client:
                async for _ in client:
                    pass
    assert len(server.requests) == 1


async def test_expired_token_is_final_for_who_has_no_other() -> None:
    async with (
        scripted(closes_later(4401)) as server,
        Client(server.url, "abc") as client,
    ):
        with pytest.raises(ConnectionError):
            await client.ping()
        with pytest.raises(Rejected, match="no new token"):
            async for _ in client:
                pass
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_expired_token_is_replaced_by_who_can_make_one(kind: str) -> None:
    made: list[str] = []

    def token() -> str:
        made.append(f"token-{len(made) + 1}")
        return made[-1]

    async def slow_token() -> str:
        return token()

    async with scripted(closes(4401), stays) as server:
        source = token if kind == "function" else slow_token
        async with Client(server.url, source, backoff=Backoff(**AT_ONCE)) as client:
            await eventually(lambda: client.connects == 2)
    sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["Bearer token-1", "Bearer token-2"]


async def test_a_401_is_final_for_a_fixed_token_only() -> None:
    refusals = {1: (401, {})}
    async with scripted(statuses=refusals) as server:
        with pytest.raises(Rejected, match="401"):
            async with Client(server.url, "abc"):
                pass
    async with scripted(stays, stays, statuses=refusals) as server:
        tokens = iter(["abc", "def"])
        backoff = Backoff(**AT_ONCE)
        async with Client(server.url, lambda: next(tokens), backoff=backoff) as client:
            assert client.connects == 1


async def test_token_that_was_refused_is_not_tried_again() -> None:
    async with scripted(statuses={1: (401, {})}) as server:
        with pytest.raises(Rejected, match="no other"):
            async with Client(server.url, lambda: "abc", backoff=Backoff(**AT_ONCE)):
                pass


@pytest.mark.parametrize("status", [400, 403, 404, 426])
async def test_other_refusals_are_final(status: int) -> None:
    async with scripted(statuses={1: (status, {})}) as server:
        with pytest.raises(Rejected, match=str(status)):
            async with Client(server.url, lambda: "abc"):
                pass
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0", 0.0), ("", 0.0), ("soon", 0.0), ("-5", 0.0), ("\u00b2", 0.0)]
    + [("9" * 400, 3600.0)],
)
async def test_retry_after_is_obeyed_with_the_jitter_on_top(
    status: int, value: str, seconds: float
) -> None:
    async with scripted(statuses={1: (status, {"Retry-After": value})}) as server:
        assert (
            await Client(server.url, backoff=Backoff(**AT_ONCE))._attempt() == seconds
        )
    async with scripted(statuses={1: (status, {"Retry-After": value})}) as server:
        backoff = Backoff(first=1.0)
        delay = await Client(server.url, backoff=backoff)._attempt()
        assert seconds < delay < seconds + 1.0


async def test_retry_after_ms_is_obeyed() -> None:
    reason = closing.draining(7.25).reason
    async with scripted(closes(1001, reason)) as server:
        assert await Client(server.url)._attempt() == 7.25


async def test_overload_is_left_alone_for_longer_than_usual() -> None:
    for code in (1013, 4429):
        async with scripted(closes(code)) as server:
            assert (
                await Client(server.url, backoff=Backoff(first=1.0))._attempt() >= 1.0
            )


async def test_client_waits_for_a_server_that_is_not_there_yet(
    running: Running,
) -> None:
    async with running("rooms") as server:
        url = server.url
    client = Client(url, issue(SECRET, "ann"), backoff=Backoff(first=0.0, cap=0.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), client:
            pass
    await eventually(lambda: len(asyncio.all_tasks()) <= 2)  # it has given up


async def test_client_survives_what_is_no_websocket_server() -> None:
    async def garbage(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"220 mail ready\r\n")
        writer.close()

    async with await asyncio.start_server(garbage, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        client = Client(f"ws://{host}:{port}", backoff=Backoff(first=1.0))
        assert 0.0 <= await client._attempt() < 1.0


# Requests


async def test_request_fails_with_connection_error_when_the_connection_is_lost() -> (
    None
):
    async with (
        scripted(breaks, stays) as server,
        Client(server.url, backoff=Backoff(**AT_ONCE)) as client,
    ):
        with pytest.raises(ConnectionError):
            await client.publish("a", 1)
        assert (await client.ping())["type"] == "pong"  # of the next connection


async def test_every_waiting_request_fails_at_once() -> None:
    async def breaks_later(connection: ServerConnection) -> None:
        for _ in range(3):
            await connection.recv()
        connection.transport.abort()

    async with (
        scripted(breaks_later, stays) as server,
        Client(server.url, backoff=Backoff(**AT_ONCE)) as client,
    ):
        asked = [client.publish("a", number) for number in range(3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError] * 3


async def test_request_waits_while_there_is_no_connection() -> None:
    async with (
        scripted(breaks, stays) as server,
        Client(server.url, backoff=Backoff(**AT_ONCE)) as client,
    ):
        with pytest.raises(ConnectionError):
            await client.ping()
        answers = await asyncio.gather(*(client.ping() for _ in range(5)))
    assert [answer["type"] for answer in answers] == ["pong"] * 5


async def test_request_that_waits_for_a_connection_ends_with_the_client() -> None:
    async with (
        scripted(breaks) as server,
        Client(server.url, backoff=Backoff(first=1e6, cap=1e6)) as client,
    ):
        with pytest.raises(ConnectionError):
            await client.ping()
        waiting = asyncio.create_task(client.ping())
        await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        await waiting


async def test_error_of_the_server_is_raised_where_it_was_asked(
    running: Running,
) -> None:
    token = issue(SECRET, "ann", ["open"])
    async with running("rooms") as server, Client(server.url, token) as client:
        with pytest.raises(ServerError) as caught:
            await client.join("closed")
        assert caught.value.code == "forbidden"
        assert (await client.join("open"))["type"] == "joined"
        assert "closed" not in client.cursors


async def test_exception_of_the_token_function_is_raised() -> None:
    def token() -> str:
        raise LookupError("no token today")

    with pytest.raises(LookupError):
        async with Client("ws://127.0.0.1:1", token):
            pass


# Coming back to rooms


async def test_nothing_is_lost_when_the_server_cuts_the_connection(
    running: Running,
) -> None:
    total = 200
    oracle = Oracle()
    async with (
        running("resume") as server,
        Client(
            server.url, lambda: issue(SECRET, "ann"), backoff=Backoff(**AT_ONCE)
        ) as client,
        peer(server, "bob") as bob,
    ):
        await client.join("a")

        async def publish() -> None:
            for number in range(total):
                ack = await bob.ask(type="publish", room="a", payload=number)
                assert ack["seq"] == number + 1
                if number % 40 == 20:
                    for connection in server.connections:
                        if connection.identity.user == "ann":
                            connection.transport.abort()

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            async for message in client:
                oracle.saw(message)
                if message.get("seq") == total and message["type"] == "message":
                    break
        assert client.connects > 1
    assert oracle.verdict.clean, str(oracle.verdict)
    assert oracle.verdict.gaps == []
    assert list(oracle.payloads().values()) == list(range(total))


async def test_client_returns_to_the_rooms_that_it_did_not_leave(
    running: Running,
) -> None:
    async with (
        running("resume") as server,
        Client(
            server.url, lambda: issue(SECRET, "ann"), backoff=Backoff(**AT_ONCE)
        ) as client,
    ):
        for room in ("a", "b", "c"):
            await client.join(room)
        await client.leave("b")
        (connection,) = server.connections
        connection.transport.abort()
        await eventually(lambda: client.connects == 2)
        await eventually(lambda: {*server.hub.rooms} == {"a", "c"})


async def test_cursor_follows_messages_gaps_and_a_new_epoch(running: Running) -> None:
    async def tells(connection: ServerConnection) -> None:
        await connection.recv()
        joined = {"type": "joined", "room": "a", "recovered": False}
        for message in (
            {**joined, "epoch": "e", "seq": 3, "ref": "r1"},
            {"type": "message", "room": "a", "seq": 4, "from": "b", "payload": 1},
            {"type": "gap", "room": "a", "from": 5, "to": 9, "reason": "slow"},
            {"type": "message", "room": "b", "seq": 99, "from": "b", "payload": 1},
        ):
            await connection.send(json.dumps(message))
        await connection.close(1012)

    asked: list[dict[str, Any]] = []

    async def listens(connection: ServerConnection) -> None:
        asked.append(json.loads(await connection.recv()))
        joined = {"type": "joined", "room": "a", "epoch": "f", "seq": 2}
        await connection.send(json.dumps({**joined, "recovered": False}))
        await connection.close(1012)

    async with (
        scripted(tells, listens, listens, stays) as server,
        Client(server.url, backoff=Backoff(**AT_ONCE)) as client,
    ):
        await client.join("a")
        await eventually(lambda: len(asked) == 2)
    assert [message["after"] for message in asked] == [
        {"epoch": "e", "seq": 9},
        {"epoch": "f", "seq": 2},
    ]


async def test_what_was_heard_is_read_before_the_end_is_told() -> None:
    async def tells(connection: ServerConnection) -> None:
        for seq in range(1, 1500):  # more than the client holds
            message = {"type": "message", "room": "a", "seq": seq, "payload": 1}
            await connection.send(json.dumps(message))
        await connection.close(4403)

    heard = []
    async with scripted(tells) as server, Client(server.url) as client:
        with pytest.raises(Rejected):
            async for message in client:
                heard.append(message["seq"])
    assert heard == list(range(1, 1500))


async def test_leaving_the_context_says_goodbye() -> None:
    codes: list[int | None] = []

    async def waits(connection: ServerConnection) -> None:
        try:
            await connection.recv()
        except ConnectionClosed:
            codes.append(connection.close_code)

    async with scripted(waits) as server:
        async with Client(server.url):
            pass
        await eventually(lambda: codes == [1000])


async def test_publisher_that_never_iterates_still_gets_its_answers(
    running: Running,
) -> None:
    async with (
        running("rooms", message_rate_limit=0) as server,
        Client(server.url, issue(SECRET, "ann")) as client,
    ):
        await client.join("lobby")
        for number in range(QUEUE + 200):  # each comes back and waits to be read
            async with asyncio.timeout(5):
                await client.publish("lobby", number)


async def test_reading_stops_while_nobody_iterates_and_goes_on_after(
    running: Running,
) -> None:
    total = 3 * QUEUE
    async with (
        running("rooms", message_rate_limit=0) as server,
        Client(server.url, issue(SECRET, "ann")) as ann,
        Client(server.url, issue(SECRET, "bob")) as bob,
    ):
        await ann.join("lobby")
        for number in range(total):
            await bob.publish("lobby", number)
        assert ann._queue.qsize() <= QUEUE + 1
        got = []
        async with asyncio.timeout(10):
            async for message in ann:
                if message["type"] == "message":
                    got.append(message["seq"])
                    if len(got) == total:
                        break
        assert got == list(range(1, total + 1))


class Delays(Backoff):
    """These delays, one after the other."""

    def __init__(self, *delays: float) -> None:
        super().__init__()
        self.delays = [*delays]

    def next(self, draw: Callable[[], float] = random.random) -> float:
        return self.delays.pop(0)


async def test_room_is_entered_once_on_a_new_connection() -> None:
    """Another try that was due on the connection before would be given all twice."""
    joins = 0

    async def welcomes(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(1001)

    async def broker_is_down(connection: ServerConnection) -> None:
        ref = json.loads(await connection.recv())["ref"]
        error = {"type": "error", "code": "broker_down", "detail": "", "ref": ref}
        await connection.send(json.dumps(error))
        await connection.close(1001)

    async def counts(connection: ServerConnection) -> None:
        nonlocal joins
        async for text in connection:
            message = json.loads(text)
            joins += message["type"] == "join"
            await connection.send(json.dumps({"type": "pong", "ref": message["ref"]}))

    script = (welcomes, broker_is_down, counts)
    async with scripted(*script) as server:
        # Back at once, to try again in a while, back at once.
        client = Client(server.url, backoff=Delays(0.0, 0.3, 0.0))
        async with client:
            with pytest.raises(ConnectionError):
                await client.join("red")
            await eventually(lambda: client.connects == 3 and not client._retries)
            await client.ping()
    assert joins == 1
