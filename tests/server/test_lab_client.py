"""lab-client.js in a browser: it reconnects, and keeps the order of requests."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from labserver.client import Client
from labserver.processes import faults
from labserver.processes.cluster import (
    Cluster,
    Replica,
    running_cluster,
    running_replica,
)
from labserver.server import routes
from tests.support.chromium import http_of, in_browser, launched

pytestmark = [pytest.mark.long, *in_browser]

# The start of each script: a client that reconnects at once, and a list of its events.
CLIENT = """async ({ url, token, ...given }) => {
    const { Backoff, LabClient } = await import("/lab-client.js");
    const until = async (condition) => {
        while (!condition()) await new Promise((go) => setTimeout(go, 10));
    };
    const pause = (time) => new Promise((go) => setTimeout(go, time));
    const told = [];
    const start = (options = {}, address = url) => {
        const client = new LabClient(address, {
            token: () => token,
            backoff: new Backoff({ first: 10, cap: 50 }),
            ...options,
        });
        for (const type of ["state", "message", "joined", "left", "error"]) {
            client.addEventListener(type, ({ detail }) => {
                told.push([type, detail.state ?? detail.code ?? detail.payload]);
            });
        }
        client.start();
        return client;
    };
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    async with launched() as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with running_cluster(1) as cluster:
        yield cluster


@asynccontextmanager
async def page_of(browser: Any, url: str, before: str = "") -> AsyncIterator[Any]:
    """Open a page of a server in which scripts can run."""
    context = await browser.new_context()
    page = await context.new_page()
    if before:
        await page.add_init_script(before)
    await page.goto(http_of(url) + "/healthz")
    yield page
    await context.close()


async def run(browser: Any, replica: Replica, script: str, **given: Any) -> Any:
    """Run a script in a page of a replica; return its result."""
    given = {"url": replica.url, "token": replica.token(), **given}
    async with asyncio.timeout(60), page_of(browser, replica.url) as page:
        return await page.evaluate(f"{CLIENT}{script}}}", given)


Converse = Callable[[ServerConnection], Awaitable[None]]
HELLO = {"type": "hello", "id": "x", "user": "ann", "stage": "", "replica": "r"}


@asynccontextmanager
async def scripted(
    converse: Converse,
    refuse: Callable[[ServerConnection, Request], Response | None] | None = None,
) -> AsyncIterator[str]:
    """Run a server that serves the files; ``converse`` handles its connections."""
    status = SimpleNamespace(unready=lambda: None, metrics_page=lambda: b"")

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        if refuse is not None and (refused := refuse(connection, request)):
            return refused
        if routes.wants_upgrade(request):
            return None
        return routes.answer(status, request)

    async def quietly(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await converse(connection)

    async with serve(
        quietly,
        *("127.0.0.1", 0),
        process_request=answer,
        subprotocols=["lab.json"],  # type: ignore[list-item]
        close_timeout=1,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


async def say(connection: ServerConnection, **message: Any) -> None:
    await connection.send(json.dumps(message))


async def greet(connection: ServerConnection) -> None:
    await say(connection, **HELLO, heartbeat=None)


async def welcome(connection: ServerConnection) -> None:
    await greet(connection)
    await connection.wait_closed()


# Refusals that pass, and those that do not

STATUSES = [408, 425, 429, 500, 502, 503, 504, 520, 522, 530]


async def test_handshakes_that_are_refused_for_now_are_tried_again(
    browser: Any,
) -> None:
    tries: Counter[str] = Counter()

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        path, _, status = request.path.partition("/refuse/")
        if path == "/admission":
            return routes.respond(503, "")
        if not status:
            return None
        tries[status] += 1
        response = routes.respond(503, "")
        response.status_code, response.reason_phrase = int(status), "Not Now"
        return response if tries[status] <= 4 else None

    script = """
        const address = (status) => `${url}/refuse/${status}`;
        const clients = given.statuses.map((status) => start({}, address(status)));
        const over = ({ state }) => state === "open" || state === "closed";
        await until(() => clients.every(over));
        return clients.map(({ state }) => state);
    }"""
    async with scripted(welcome, refuse) as url, page_of(browser, url) as page:
        given = {"url": url, "token": None, "statuses": STATUSES}
        states = await page.evaluate(CLIENT + script, given)
        assert states == ["open"] * len(STATUSES)


async def test_page_waits_while_the_server_is_full(
    browser: Any, redis_url: str
) -> None:
    full = ("--connection-limit", "1", "--redis", redis_url)
    async with running_replica("resume", *full) as replica:
        script = """
            window.client = start();
            const failed = () => told.filter(([, what]) => what === "waiting").length;
            await until(() => failed() >= 4 || client.state === "closed");
            return client.state;
        }"""
        given = {"url": replica.url, "token": replica.token()}
        async with page_of(browser, replica.url) as page:
            async with Client(replica.url, replica.token("bob")):
                state = await page.evaluate(CLIENT + script, given)
                assert state in ("waiting", "connecting", "lost")
            opens = """async () => {
                const open = () => client.state === "open";
                while (!open()) await new Promise((go) => setTimeout(go, 10));
            }"""
            async with asyncio.timeout(20):
                await page.evaluate(opens)


async def test_token_that_the_server_refuses_ends_it(
    browser: Any, cluster: Cluster
) -> None:
    (replica,) = cluster.replicas
    script = """
        const client = start();
        await client.join("lobby").catch(() => {});
        return client.state;
    """
    assert await run(browser, replica, script, token="nonsense") == "closed"


# Rejoining


async def test_page_enters_all_its_rooms_again_below_the_rate_limit(
    browser: Any, redis_url: str
) -> None:
    script = """
        const client = start();
        const names = Array.from({ length: 60 }, (_, number) => `room-${number}`);
        await Promise.all(names.map((name) => client.join(name)));
        const entered = new Set();
        client.addEventListener("joined", ({ detail }) => entered.add(detail.room));
        client.cut();
        await until(() => entered.size === 60);
        return [client.connects, client.rooms.size];
    """
    slow = ("--message-rate-limit", "20", "--redis", redis_url)
    async with running_replica("resume", *slow) as replica:
        assert await run(browser, replica, script) == [2, 60]


# Tokens


async def test_source_that_fails_while_the_token_is_expired_is_asked_again(
    browser: Any, cluster: Cluster
) -> None:
    (replica,) = cluster.replicas
    script = """
        const answers = [
            () => given.short,
            () => { throw new Error("synchronous"); },
            () => Promise.reject(null),
            () => null,
            () => Promise.resolve(""),
            () => "this is no token",
        ];
        const client = start({ token: () => (answers.shift() ?? (() => token))() });
        const opened = () => told.filter(([, what]) => what === "open").length;
        await until(() => opened() === 2 || client.state === "closed");
        return [client.state, answers.length];
    """
    short = replica.token(ttl=2)
    assert await run(browser, replica, script, short=short) == ["open", 0]


async def test_source_that_has_only_the_expired_token_ends_it(
    browser: Any, cluster: Cluster
) -> None:
    (replica,) = cluster.replicas
    script = """
        const client = start();
        await until(() => client.state === "closed");
        return told.filter(([type]) => type === "state").map(([, what]) => what);
    """
    told = await run(browser, replica, script, token=replica.token(ttl=2))
    assert told == ["connecting", "open", "closed"]


# Back-off


async def test_connection_is_stable_only_after_its_hello(browser: Any) -> None:
    async def greet_late(connection: ServerConnection) -> None:
        await asyncio.sleep(0.4)
        await greet(connection)
        await connection.close(1013)

    script = """
        const backoff = new Backoff({ first: 10, cap: 1000, stable: 300 });
        const ceilings = [];
        const client = start({ backoff });
        client.addEventListener("state", ({ detail }) => {
            if (detail.opened) ceilings.push(detail.ceiling);
        });
        await until(() => ceilings.length === 4);
        client.stop();
        return ceilings;
    }"""
    async with scripted(greet_late) as url, page_of(browser, url) as page:
        given = {"url": url, "token": None}
        ceilings = await page.evaluate(CLIENT + script, given)
    assert ceilings == [20, 30, 50, 90]  # 10 on top: an overloaded server waits longer


# Order


async def test_room_that_is_left_and_entered_at_once_is_entered(
    browser: Any, cluster: Cluster
) -> None:
    (replica,) = cluster.replicas
    script = """
        const client = start();
        await client.join("order");
        const [left, joined] = await Promise.all([
            client.leave("order"), client.join("order"),
        ]);
        await client.publish("order", "here");
        await until(() => told.some(([, what]) => what === "here"));
        client.cut();
        await client.publish("order", "and after a break");
        await until(() => told.some(([, what]) => what === "and after a break"));
        return [left.type, joined.type];
    """
    assert await run(browser, replica, script) == ["left", "joined"]


async def test_requests_for_a_room_are_sent_in_the_order_of_the_calls(
    browser: Any,
) -> None:
    heard: list[tuple[str, Any]] = []
    position = {"epoch": "e", "seq": 0, "recovered": False}
    kinds = {"join": "joined", "leave": "left", "publish": "ack", "ping": "pong"}

    async def note(connection: ServerConnection) -> None:
        await greet(connection)
        async for data in connection:
            message = json.loads(data)
            if message.get("room") == "last":
                heard.append((message["type"], message.get("payload")))
            about = {key: message[key] for key in ("ref", "room") if key in message}
            kind = kinds[message["type"]]
            await say(connection, type=kind, **about, **position)

    script = """
        const client = start();
        const last = (payload) => client.publish("last", payload);
        const all = [];
        for (let number = 0; number < 30; number += 1) {
            all.push(client.join(`crowd-${number}`)); // more than go out at once
        }
        all.push(client.join("last"), last(1), last(2));
        await Promise.all(all);
        all.push(last(3), client.leave("last"), last(4), client.join("last"));
        all.push(client.leave("last"), client.join("last"), last(5));
        await Promise.all(all);
        return client.rooms.get("last").inside;
    }"""
    async with scripted(note) as url, page_of(browser, url) as page:
        given = {"url": url, "token": None}
        assert await page.evaluate(CLIENT + script, given)
    ways = ["join", 1, 2, 3, "leave", 4, "join", "leave", "join", 5]
    assert [payload or kind for kind, payload in heard] == ways


# Timers that are late, as in hidden tabs

LATE = """
    const timers = [window.setTimeout, window.setInterval];
    [window.setTimeout, window.setInterval] = timers.map((timer) => (call, delay = 0) =>
        timer(call, delay < 100 ? delay : delay + 1500));
"""


@pytest.mark.parametrize("stream", [True, False])
async def test_silent_connection_is_given_up_though_every_timer_is_late(
    browser: Any, cluster: Cluster, stream: bool
) -> None:
    (replica,) = cluster.replicas
    host, _, port = replica.url.removeprefix("ws://").partition(":")
    script = """
        const { stream } = given;
        window.client = start({ stream, pingInterval: 200, pingTimeout: 300 });
        await until(() => client.state === "open");
    }"""
    silent = """async () => {
        const silent = () => client.state !== "open";
        while (!silent()) await new Promise((go) => setTimeout(go, 10));
    }"""
    async with (
        faults.proxy(host, int(port)) as proxy,
        page_of(browser, proxy.url, before=LATE) as page,
    ):
        given = {"url": proxy.url, "token": replica.token(), "stream": stream}
        await page.evaluate(CLIENT + script, given)
        proxy.freeze()
        async with asyncio.timeout(20):
            await page.evaluate(silent)
        proxy.thaw()


async def test_page_that_stood_still_looks_once_more(
    browser: Any, cluster: Cluster
) -> None:
    (replica,) = cluster.replicas
    script = """
        const client = start({ pingInterval: 200, pingTimeout: 300 });
        await client.join("still");
        for (let times = 0; times < 3; times += 1) {
            await pause(250); // a ping is under way
            const end = performance.now() + 2000;
            while (performance.now() < end);
        }
        await pause(500);
        return [client.state, client.connects];
    """
    assert await run(browser, replica, script) == ["open", 1]


# Sizes


@pytest.mark.parametrize("stream", [True, False])
async def test_message_that_is_too_large_fails_with_size_and_limit(
    browser: Any, cluster: Cluster, stream: bool
) -> None:
    (replica,) = cluster.replicas
    script = """
        const client = start({ stream: given.stream });
        await client.join("large");
        const because = ({ name, size, limit }) => [name, size, limit];
        const results = [
            client.publish("large", "漢".repeat(30_000)).catch(because),
            client.publish("large", "beside it"),
        ];
        const [first, beside] = await Promise.all(results);
        const again = await client.publish("large", "漢".repeat(30_000)).catch(because);
        const { seq } = await client.publish("large", "漢".repeat(15_000));
        return [first, beside.seq, again, seq, client.connects];
    """
    first, *rest, again, seq, connects = await run(
        browser, replica, script, stream=stream
    )
    name, size, limit = first
    assert (name, limit) == ("TooBig", 65536)
    assert 90_000 < size < 90_200
    assert again[0] == "TooBig"
    assert seq == rest[0] + 1
    assert connects == 2  # after one close the client knows the server's limit


# Messages that cannot be read


@pytest.mark.parametrize("stream", [True, False])
async def test_no_message_of_a_server_ends_the_client(
    browser: Any, stream: bool
) -> None:
    nonsense: list[str | bytes] = ["", "{", "null", "[1]", '"x"', "7", b"\xff", "{}"]
    nonsense += ["9" * 5000, "[" * 5000 + "]" * 5000, '{"type":null,"ref":{}}']
    nonsense += ['{"type":"hello"}', '{"type":"joined","room":"a"}', "1e999"]
    nonsense += ['{"type":"message","room":"a","seq":1e999,"payload":0}']
    nonsense += ['{"type":"gap","room":"a","from":null,"to":"x"}']
    nonsense += ['{"type":"error","ref":"c99"}', '{"type":"left","room":{}}']

    async def talk(connection: ServerConnection) -> None:
        for each in nonsense:
            await connection.send(each)
        await greet(connection)
        async for data in connection:
            message = json.loads(data)
            if message["type"] == "join":
                assert "after" not in message
                entered = {"epoch": "e", "seq": 0, "recovered": False}
                asked = {key: message[key] for key in ("room", "ref")}
                await say(connection, type="joined", **asked, **entered)
                for each in nonsense:
                    await connection.send(each)
            else:
                await say(connection, type="pong", ref=message["ref"])

    script = """
        const client = start({ stream: given.stream });
        await client.join("a");
        await client.ping();
        client.cut();
        await client.ping();
        return [client.state, client.connects];
    }"""
    async with scripted(talk) as url, page_of(browser, url) as page:
        given = {"url": url, "token": None, "stream": stream}
        async with asyncio.timeout(20):
            result = await page.evaluate(CLIENT + script, given)
    assert result == ["open", 2]
