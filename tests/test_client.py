"""The client that reconnects: when it does, where to, and what it catches up with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from redis import Redis
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from labserver.client import (
    GOODBYE_TIMEOUT,
    QUEUE,
    WINDOW,
    Backoff,
    Client,
    Rejected,
    ServerError,
    TooBig,
)
from labserver.contract import closing
from labserver.contract.tokens import issue
from labserver.judge.oracle import Oracle
from labserver.mistakes.client import NoJitter
from labserver.processes import faults
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer

pytestmark = pytest.mark.loops("uvloop", "asyncio")

AT_ONCE = {"first": 0.0, "cap": 0.0}
HELLO = {"type": "hello", "id": "x", "user": "ann", "stage": "", "replica": "r"}


@pytest.fixture(autouse=True)
async def deadline() -> AsyncIterator[None]:
    async with asyncio.timeout(4 * DEADLINE):
        yield


class Scripted:
    """A server that handles its n-th connection with the n-th handler of a list."""

    def __init__(self, script: list[Callable[[ServerConnection], Awaitable[Any]]]):
        self.script = script
        self.requests: list[Request] = []
        self.statuses: dict[int, tuple[int, dict[str, str]]] = {}
        self.connections: list[ServerConnection] = []
        self.url = ""

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        refusal = self.statuses.get(len(self.requests))
        if refusal is None:
            return None
        status, headers = refusal
        fields = Headers({"Content-Length": "0", "Connection": "close", **headers})
        return Response(status, "so it is", fields, b"")

    async def converse(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
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
    """Break the connection at the first request."""
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
    # With the cap applied after the draw, nine of ten clients wait exactly the cap.
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


async def test_final_refusal_at_once_is_raised() -> None:
    async with scripted(closes(4403)) as server:
        with pytest.raises(Rejected):
            async with Client(server.url) as client:
                async for _ in client:
                    pass
    assert len(server.requests) == 1


async def test_expired_token_is_final_without_another() -> None:
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
async def test_expired_token_is_replaced_by_a_source_of_tokens(kind: str) -> None:
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


PASSING = [408, 425, 429, 500, 501, 502, 503, 504, 505, 507, 511, 520, 524, 530, 599]


@pytest.mark.parametrize("status", PASSING)
async def test_client_comes_back_after_a_passing_refusal(status: int) -> None:
    async with (
        scripted(stays, stays, statuses={1: (status, {})}) as server,
        Client(server.url, backoff=Backoff(**AT_ONCE)) as client,
    ):
        assert (await client.ping())["type"] == "pong"


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 410, 426, 431, 451])
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


async def test_client_that_was_rate_limited_enters_its_rooms_one_by_one() -> None:
    for code, joins in ((1013, WINDOW), (4429, 1)):
        async with scripted(closes(code)) as server:
            client = Client(server.url)
            await client._attempt()
            assert client._window == joins  # at a time, on the next connection


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


async def test_client_survives_a_server_that_speaks_no_websocket() -> None:
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
        assert (await client.ping())["type"] == "pong"  # from the next connection


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


async def deaf(connection: ServerConnection) -> None:
    """Read every request and answer none."""
    async for _ in connection:
        pass


async def test_request_to_a_server_that_answers_nothing_has_a_deadline() -> None:
    async with (
        scripted(deaf) as server,
        Client(server.url, request_timeout=0.1) as client,
    ):
        for ask in (
            lambda: client.publish("a", "hello", key="one"),
            lambda: client.join("a"),
            lambda: client.leave("a"),
            client.ping,
        ):
            with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
                await ask()
        assert client.connected
        assert len(client._waiting) == 1  # the join, whose answer still matters


async def test_request_has_its_deadline_also_while_there_is_no_connection() -> None:
    async with (
        scripted(breaks) as server,
        Client(
            server.url, backoff=Backoff(first=1e6, cap=1e6), request_timeout=0.1
        ) as client,
    ):
        with pytest.raises(ConnectionError):
            await client.ping()
        with pytest.raises(TimeoutError):
            await client.publish("a", "hello")


async def test_wish_that_could_not_be_sent_in_time_holds_for_the_next_connection(
    running: Running,
) -> None:
    away = False
    async with (
        running("resume") as server,
        Client(
            lambda: "ws://127.0.0.1:9" if away else server.url,
            lambda: issue(SECRET, "ann"),
            backoff=Backoff(**AT_ONCE),
            request_timeout=0.2,
        ) as client,
    ):
        for room in ("a", "b"):
            await client.join(room)
        away = True
        (connection,) = server.connections
        connection.transport.abort()
        await eventually(lambda: not client.connected)
        # The second waits until the first is sent, which it never is.
        asked = client.join("late"), client.leave("b")
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [TimeoutError] * 2
        away = False
        await eventually(lambda: {*server.hub.rooms} == {"a", "late"})


async def test_publish_that_ran_out_of_time_is_safe_to_repeat(running: Running) -> None:
    token = issue(SECRET, "ann")
    async with running("resume") as server:
        port = int(server.url.rpartition(":")[2])
        async with (
            faults.proxy("127.0.0.1", port) as net,
            Client(f"ws://127.0.0.1:{net.port}", token, request_timeout=1.0) as client,
            peer(server.url, token=token) as bob,
        ):
            await bob.join("a")
            net.down.freeze()  # the server hears the publish; its answer does not come
            with pytest.raises(TimeoutError):
                await client.publish("a", "hello", key="one")
            assert (await bob.until("message"))["payload"] == "hello"
            net.down.thaw()
            ack = await client.publish("a", "hello", key="one")
            assert ack["seq"] == 1
            assert (await client.publish("a", "end"))["seq"] == 2
            assert (await bob.until("message"))["payload"] == "end"


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


async def test_client_that_returns_to_a_new_epoch_gets_all_of_it_that_is_kept(
    running: Running, redis: Redis
) -> None:
    """Redis came back empty while the client was away, and others went on."""
    async with running("resume") as server:
        may_return = asyncio.Event()
        may_return.set()

        async def token() -> str:
            await may_return.wait()
            return issue(SECRET, "ann")

        async with (
            Client(server.url, token, backoff=Backoff(first=0.05)) as ann,
            peer(server, "bob") as bob,
        ):
            await ann.join("a")
            await bob.join("a")
            await bob.ask(type="publish", room="a", payload="lost sight of")
            messages = aiter(ann)
            assert (await anext(messages))["type"] == "joined"
            assert (await anext(messages))["payload"] == "lost sight of"
            may_return.clear()
            (lost,) = [c for c in server.connections if c.identity.user == "ann"]
            lost.transport.abort()
            await eventually(lambda: not ann.connected)
            redis.flushall()
            await bob.send(type="publish", room="a", payload=0)
            await bob.until("joined")  # of the new epoch
            for number in (1, 2):
                await bob.ask(type="publish", room="a", payload=number)
            may_return.set()
            joined = await anext(messages)
            assert (joined["type"], joined["recovered"]) == ("joined", False)
            # A room remembers what is said after somebody's position is known.
            assert joined["seq"] < 3
            missed = range(joined["seq"] + 1, 4)
            assert [(await anext(messages))["seq"] for _ in missed] == [*missed]


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


async def test_received_messages_are_read_before_the_end() -> None:
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


async def test_goodbye_does_not_wait_for_unread_messages(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labserver.client.GOODBYE_TIMEOUT", 3 * DEADLINE)
    async with running("rooms", message_rate_limit=0) as server, peer(server) as bob:
        async with asyncio.timeout(DEADLINE):
            async with Client(server.url, issue(SECRET, "ann")) as client:
                await client.join("lobby")
                for _ in range(
                    3 * QUEUE
                ):  # more than fits into a client that reads nothing
                    await bob.send(type="publish", room="lobby", payload=1)
                await eventually(lambda: client._queue.qsize() >= QUEUE)


async def test_publisher_that_never_iterates_still_gets_its_answers(
    running: Running,
) -> None:
    async with (
        running("rooms", message_rate_limit=0) as server,
        Client(server.url, issue(SECRET, "ann")) as client,
    ):
        await client.join("lobby")
        for number in range(QUEUE + 200):  # each is delivered back and waits unread
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


async def test_room_is_entered_once_on_a_new_connection() -> None:
    """A second join, due on the old connection, would get every message twice."""
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
        client = Client(server.url, backoff=Backoff(**AT_ONCE))
        async with client:
            with pytest.raises(ConnectionError):
                await client.join("red")
            await eventually(lambda: client.connects == 3)
            await client.ping()
    assert joins == 1


async def entered(client: Client, rooms: list[str]) -> None:
    """Join many rooms for the first time, as fast as the server allows."""
    for room in rooms:
        while True:
            try:
                await client.join(room)
                break
            except ServerError as exc:
                assert exc.code == "rate_limited"
                await asyncio.sleep(0.1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("counted", [False, True])
async def test_every_room_is_entered_again_below_any_rate(
    counted: bool, running: Running
) -> None:
    """Also without a limit on rooms, so that each join counts as a message."""
    rooms = [f"room-{number}" for number in range(45)]
    limits = {"message_rate_limit": 15, "rooms_limit": 0 if counted else 128}
    async with (
        running("resume", **limits) as server,
        Client(
            server.url, issue(SECRET, "ann"), backoff=Backoff(first=0.1, cap=0.1)
        ) as client,
    ):
        await entered(client, rooms)
        (connection,) = server.connections
        connection.transport.abort()
        await eventually(lambda: client.connects > 1)
        await eventually(lambda: {*server.hub.rooms} == {*rooms}, within=30)
        assert {*client.cursors} == {*rooms}


# Order of requests


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("order", ["leave join", "join leave", "leave join leave join"])
async def test_client_is_where_the_last_of_several_requests_put_it(
    order: str, connected: bool, running: Running
) -> None:
    inside = order.endswith("join")
    async with (
        running("resume") as server,
        # Disconnected for 0.3 s, so that the test can see it.
        Client(
            server.url, issue(SECRET, "ann"), backoff=NoJitter(first=0.3, cap=0.3)
        ) as client,
    ):
        await client.join("a")
        await client.join("b")
        if not connected:
            (connection,) = server.connections
            connection.transport.abort()
            await eventually(lambda: not client.connected)
        asked = [getattr(client, what)("a") for what in order.split()]
        await asyncio.gather(*asked)
        assert ("a" in client.cursors) is inside
        await eventually(lambda: "b" in server.hub.rooms)
        assert ("a" in server.hub.rooms) is inside
        if inside:
            ack = await client.publish("a", 1)
            async for message in client:
                if message["type"] == "message":
                    assert message["seq"] == ack["seq"]
                    break


async def test_late_refusal_of_a_join_does_not_undo_a_newer_one() -> None:
    async def answers_late(connection: ServerConnection) -> None:
        refs = [json.loads(await connection.recv())["ref"] for _ in range(3)]
        where = {"room": "a", "epoch": "e", "seq": 1, "recovered": False}
        refusal = {"type": "error", "code": "rate_limited", "detail": "later"}
        for answer, ref in zip(
            (refusal, {"type": "left", "room": "a"}, {"type": "joined", **where}),
            refs,
            strict=True,
        ):
            await connection.send(json.dumps({**answer, "ref": ref}))
        await stays(connection)

    async with scripted(answers_late) as server, Client(server.url) as client:
        asked = [client.join("a"), client.leave("a"), client.join("a")]
        first, _, last = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(first, ServerError)
        assert last["type"] == "joined"
        assert client.cursors == {"a": {"epoch": "e", "seq": 1}}


@pytest.mark.parametrize("code", ["broker_down", "forbidden"])
async def test_refusal_that_comes_after_the_deadline_of_a_join(code: str) -> None:
    """The caller has gone: the join is repeated, or the error is told to whom reads."""

    async def refuses(connection: ServerConnection) -> None:
        first = json.loads(await connection.recv())
        await timed_out.wait()
        error = {"type": "error", "code": code, "detail": "", "ref": first["ref"]}
        await connection.send(json.dumps(error))
        again = json.loads(await connection.recv())  # or the client's goodbye
        where = {"room": again["room"], "epoch": "e", "seq": 1, "recovered": False}
        joined = {"type": "joined", **where, "ref": again["ref"]}
        await connection.send(json.dumps(joined))
        await stays(connection)

    timed_out = asyncio.Event()
    async with (
        scripted(refuses) as server,
        Client(server.url, request_timeout=0.2) as client,
    ):
        with pytest.raises(TimeoutError):
            await client.join("a")
        timed_out.set()
        async with asyncio.timeout(DEADLINE):
            told = await anext(aiter(client))
        if code == "broker_down":
            assert told["type"] == "joined"
            assert client.cursors == {"a": {"epoch": "e", "seq": 1}}
        else:
            assert told["code"] == code
            assert not client.cursors


# A way back that fails


async def cancelled() -> str:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task
    return "never"


async def fails(exc: Exception) -> str:
    raise exc


FAILURES: dict[str, Callable[[], Any]] = {
    "ConnectError": lambda: fails(httpx.ConnectError("the token source is away")),
    "LookupError": lambda: fails(LookupError("no token today")),
    "cancelled": cancelled,
    "None": lambda: None,
    "a line break": lambda: "a\nb",
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("lost", [1001, 4401])
async def test_token_source_that_fails_on_the_way_back_is_asked_again(
    failure: str, lost: int
) -> None:
    asked = 0

    def token() -> Any:
        nonlocal asked
        asked += 1
        return FAILURES[failure]() if 1 < asked < 5 else f"token-{asked}"

    async def only_with_a_token(connection: ServerConnection) -> None:
        if "Authorization" in server.requests[-1].headers:
            await stays(connection)
        await connection.close(4401)

    script = (closes_later(lost), *[only_with_a_token] * 4)
    backoff = Backoff(**AT_ONCE)
    async with (
        scripted(*script) as server,
        Client(server.url, token, backoff=backoff) as client,
    ):
        with pytest.raises(ConnectionError):
            await client.ping()
        while asked < 5:
            with contextlib.suppress(ConnectionError):
                await client.ping()
        assert (await client.ping())["type"] == "pong"


async def test_connection_is_not_stable_before_its_hello() -> None:
    async def slow_token() -> str:
        await asyncio.sleep(0.3)
        return "abc"

    backoff = Backoff(first=0.0, cap=0.0, stable=0.2)
    async with (
        scripted(closes(1001), closes(1001), stays) as server,
        Client(server.url, slow_token, backoff=backoff) as client,
    ):
        await eventually(lambda: client.connects == 3)
        assert backoff.attempt == 2


# Sending


@pytest.mark.parametrize("letter", ["\u4e2d", "\u0439", "\N{GRINNING FACE}", '"'])
async def test_message_of_any_script_may_fill_the_limit(
    letter: str, running: Running
) -> None:
    bytes_each = len(json.dumps(letter, ensure_ascii=False).encode()) - 2
    text = letter * (65_000 // bytes_each)
    async with (
        running("rooms") as server,
        Client(server.url, issue(SECRET, "ann")) as client,
    ):
        await client.join("a")
        await client.publish("a", text)
        async for message in client:
            if message["type"] == "message":
                assert message["payload"] == text
                break


async def test_too_large_a_publish_fails_with_size_and_limit_and_the_client_lives(
    running: Running,
) -> None:
    async with (
        running("rooms", message_size_limit=2000) as server,
        Client(server.url, issue(SECRET, "ann")) as client,
    ):
        with pytest.raises(TooBig, match=r"2,\d\d\d bytes.* 2,000"):
            await client.publish("a", "x" * 2000)
        assert (await client.publish("a", "x" * 1900))["seq"] == 1
        assert client.connects == 1


async def test_request_says_with_which_code_its_connection_ended() -> None:
    async with (
        scripted(closes_later(1009, "too big")) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(ConnectionError, match="1009 too big"):
            await client.publish("a", 1)


UNSAYABLE = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "half a character": "\ud800",
    "object": object(),
    "set": {1, 2},
}


@pytest.mark.parametrize("payload", UNSAYABLE.values(), ids=UNSAYABLE)
async def test_payload_that_json_cannot_express_fails_in_the_call(payload: Any) -> None:
    async with scripted(stays) as server, Client(server.url) as client:
        with pytest.raises((ValueError, TypeError)):
            await client.publish("a", payload)
        with pytest.raises((ValueError, TypeError)):
            await client.join("a", after={"epoch": payload, "seq": 0})
        assert client.cursors == {}
        assert (await client.ping())["type"] == "pong"


# Receiving

NONSENSE: dict[str, str | bytes] = {
    "5,000 digits": '{"type":"message","room":"a","seq":1,"payload":%s}' % ("9" * 5000),
    "1e400": '{"type":"message","room":"a","seq":1,"payload":1e400}',
    "half a pair": '{"type":"message","room":"a","seq":1,"payload":"\\ud800"}',
    "deep": '{"type":"message","room":"a","seq":1,"payload":%s' % ("[" * 100_000),
    "no JSON": "{",
    "empty": "",
    "a list": "[1]",
    "a number": "1",
    "no type": "{}",
    "type is a list": '{"type":[]}',
    "ref is a list": '{"type":"pong","ref":[]}',
    "bare error": '{"type":"error","ref":"r1"}',
    "bare joined": '{"type":"joined","room":"a","ref":"r1"}',
    "room is a list": '{"type":"message","room":[],"seq":1}',
    "bare message": '{"type":"message","room":"a"}',
    "bare gap": '{"type":"gap","room":"a"}',
    "seq is a text": '{"type":"message","room":"a","seq":"x"}',
    "binary": b"\xff\xfe",
    "not UTF-8": b"\xff",
    "too large": '{"type":"message","room":"a","seq":1,"payload":"%s"}' % ("x" * 2**20),
}


@pytest.mark.parametrize("said", NONSENSE)
async def test_nothing_that_a_server_says_ends_the_client(said: str) -> None:
    async def says(connection: ServerConnection) -> None:
        async for text in connection:
            ref = json.loads(text)["ref"]
            message = {"type": "joined", "room": "a", "epoch": "e", "seq": 0}
            answer = {**message, "recovered": False, "ref": ref}
            await connection.send(json.dumps(answer))
            if len(server.requests) == 1:
                await connection.send(NONSENSE[said], text=said != "binary")
        # The client may have ended this connection.

    async with (
        scripted(says, says, says) as server,
        Client(server.url, backoff=Backoff(**AT_ONCE)) as client,
    ):
        await client.join("a")
        for _ in range(3):
            with contextlib.suppress(ConnectionError):
                await client.ping()
        assert (await client.ping())["ref"]
        assert not client._task.done()


async def test_server_whose_first_message_is_no_hello_is_tried_again() -> None:
    async def mute(connection: ServerConnection) -> None:
        await connection.send("[]")
        await connection.wait_closed()

    async with serve(mute, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = Client(url, backoff=Backoff(**AT_ONCE), open_timeout=0.3)
        with pytest.raises(TimeoutError, match="not a hello"):
            async with client:
                pass


# The end


async def frozen(connection: ServerConnection) -> None:
    """Stop reading: not even a goodbye is read."""
    connection.transport.pause_reading()
    await connection.wait_closed()


async def test_deadline_around_a_client_holds_on_a_frozen_network() -> None:
    loop = asyncio.get_running_loop()
    async with scripted(frozen) as server:
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), Client(server.url):
                await asyncio.sleep(0.1)  # and then it says goodbye
        assert loop.time() - began < GOODBYE_TIMEOUT
        for connection in server.connections:
            connection.transport.abort()


async def test_goodbye_waits_for_a_frozen_server_no_longer_than_it_may() -> None:
    async with scripted(frozen) as server:
        async with asyncio.timeout(DEADLINE):
            async with Client(server.url) as client:
                pass
        assert client._task.done()
        for connection in server.connections:
            connection.transport.abort()


async def test_end_is_told_to_everybody_who_iterates() -> None:
    async with scripted(closes_later(4403)) as server, Client(server.url) as client:
        with pytest.raises(ConnectionError):
            await client.ping()
        for _ in range(3):
            with pytest.raises(Rejected):
                async for _ in client:
                    pass
    async with scripted(stays) as server:
        async with Client(server.url) as client:
            pass
        for _ in range(2):
            assert [message async for message in client] == []


async def test_first_connection_has_a_deadline_and_each_attempt_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    token = issue(SECRET, "ann")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can use it
        port = listener.getsockname()[1]
        url = f"ws://user:secret@127.0.0.1:{port}/path?token={token}"
        backoff = Backoff(first=0.05, cap=0.05)
        with pytest.raises(TimeoutError, match="refused|failed"):
            async with Client(url, token, backoff=backoff, open_timeout=0.5):
                pass
    lines = [each for each in caplog.records if each.name == "labserver.client"]
    assert len(lines) > 2
    assert all(each.levelno == logging.INFO for each in lines)
    assert all(f"127.0.0.1:{port}/path" in each.getMessage() for each in lines)
    assert token not in caplog.text
    assert "secret" not in caplog.text


async def test_refusal_is_logged_with_its_status_and_without_the_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        scripted(stays, stays, statuses={1: (503, {})}) as server,
        Client(server.url, "a-token-of-mine", backoff=Backoff(**AT_ONCE)),
    ):
        pass
    assert "HTTP 503" in caplog.text
    ours = [each for each in caplog.records if each.name.startswith("labserver")]
    assert not any("a-token-of-mine" in each.getMessage() for each in ours)
