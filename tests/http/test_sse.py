"""Event streams: what they carry, how they resume, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from labserver.contract.tokens import issue
from labserver.processes.cluster import Replica, running_replica, start_replica
from labserver.redis.embedded import embedded_redis
from labserver.server.server import LabServer
from labserver.stages import STAGES
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer
from tests.support.chromium import launched, needs_browser
from tests.support.plain_http import Listener, ask, listening, port_of, post, request

pytestmark = pytest.mark.loops("uvloop", "asyncio")
# The loop of a test is not that of a server in a process of its own.
IN_PROCESSES = pytest.mark.loops("uvloop")

FROM_ROOMS = [*STAGES][2:]


async def join(stream: Listener) -> str:
    """Return the id that a stream begins with."""
    joined = await stream.must()
    assert joined.event == "joined"
    return joined.id


# Messages


@pytest.mark.parametrize("stage", FROM_ROOMS)
async def test_stream_carries_what_a_websocket_carries(
    stage: str, running: Running
) -> None:
    async with (
        running(stage, sse_port=0) as server,
        peer(server) as ann,
        listening(server, "red") as stream,
    ):
        epoch = (await ann.join("red"))["epoch"]
        joined = await stream.must()
        assert joined.event == "joined"
        assert joined.data["epoch"] == epoch
        assert joined.id == f"{epoch}:{joined.data['seq']}"
        assert joined.retry is not None
        await post(server, "red", {"by": "POST"})
        await ann.ask(type="publish", room="red", payload={"by": "frame"})
        first, second = await stream.must(), await stream.must()
        assert (first.event, first.id) == ("message", f"{epoch}:1")
        assert (second.event, second.id) == ("message", f"{epoch}:2")
        assert first.data == {
            "type": "message",
            "room": "red",
            "seq": 1,
            "from": "ann",
            "payload": {"by": "POST"},
        }
        assert second.data["payload"] == {"by": "frame"}


@pytest.mark.parametrize("without", [name for name in STAGES if name != "rooms"])
async def test_stream_and_post_work_without_any_other_stage(
    without: str, running: Running
) -> None:
    async with (
        running("resume", without=(without,), sse_port=0) as server,
        listening(server, "red") as stream,
    ):
        await join(stream)
        for number in range(3):
            assert (await post(server, "red", number)).status == 200
        assert await stream.payloads(3) == [0, 1, 2]


async def test_replicas_streams_and_sockets_hear_one_order(running: Running) -> None:
    async with (
        running("resume", sse_port=0) as one,
        running("resume", sse_port=0) as two,
        peer(one) as ann,
        peer(two) as bob,
        listening(one, "red") as first,
        listening(two, "red") as second,
    ):
        for listener in (first, second):
            await join(listener)
        for socket in (ann, bob):
            await socket.join("red")
        said = [post(server, "red", n) for n in range(20) for server in (one, two)]
        for number in range(20):
            for socket in (ann, bob):
                await socket.send(type="publish", room="red", payload=100 + number)
        await asyncio.gather(*said)
        orders = [await each.payloads(80) for each in (first, second)]
        for socket in (ann, bob):
            heard = [(await socket.until("message"))["payload"] for _ in range(80)]
            orders.append(heard)
        assert orders[0] == orders[1] == orders[2] == orders[3]


async def test_stream_sees_who_is_there_and_is_seen(running: Running) -> None:
    async with (
        running("resume", sse_port=0) as server,
        peer(server, "bob") as bob,
        listening(server, "red", path="/rooms/red?presence=true") as stream,
    ):
        await join(stream)
        present = await stream.must()
        assert (present.event, present.id) == ("present", "")
        await bob.join("red", presence=True)
        await bob.until("present")
        news = await stream.must()
        while news.data["count"] < 2:
            news = await stream.must()
        assert news.event == "presence"


async def test_white_space_of_a_publisher_makes_no_event(running: Running) -> None:
    payload = b'{"a":\r\n\r\nid: 7\n\n1}'.replace(b"id: 7", b"")
    async with (
        running("rooms", sse_port=0) as server,
        listening(server, "red") as stream,
    ):
        await join(stream)
        assert (await ask(server, "POST", "/rooms/red", payload)).status == 200
        assert await stream.payloads(1) == [{"a": 1}]


async def test_comments_keep_a_quiet_stream_alive(running: Running) -> None:
    async with (
        running("resume", sse_port=0, heartbeat_interval=0.1) as server,
        listening(server, "red") as stream,
    ):
        await join(stream)
        quiet = asyncio.create_task(stream.next())
        await eventually(lambda: stream.comments >= 2)
        await post(server, "red", 1)
        assert (await quiet) is not None


async def test_stream_of_a_client_that_left_is_forgotten(running: Running) -> None:
    async with running("rooms", sse_port=0) as server:
        async with listening(server, "red") as stream:
            await join(stream)
            assert len(server.visitors) == 1
        await eventually(lambda: not server.visitors and not server.hub.rooms)


# Coming back


def curl(port: int, room: str, token: str, *arguments: str) -> list[str]:
    url = f"http://127.0.0.1:{port}/rooms/{room}"
    bearer = f"Authorization: Bearer {token}"
    return ["curl", "--silent", "-N", "-H", bearer, *arguments, url]


async def sse_port_of(replica: Replica) -> int:
    """Return the port in the second line that the replica prints."""
    assert replica.process.stdout is not None
    line = (await replica.process.stdout.readline()).decode()
    assert line.startswith("listening on http://127.0.0.1:"), line
    return int(line.partition("/rooms")[0].rpartition(":")[2])


async def heard_by(process: asyncio.subprocess.Process) -> Listener:
    assert process.stdout is not None
    return Listener(process.stdout, None)  # type: ignore[arg-type]


@pytest.mark.timeout(60)
@pytest.mark.needs("curl")
@IN_PROCESSES
async def test_curl_gets_exactly_what_it_missed_while_the_server_was_away(
    redis: Redis, redis_url: str
) -> None:
    flags = ("--sse-port", "0", "--redis", redis_url)
    async with running_replica("resume", *flags, secret=SECRET) as other:
        there = await sse_port_of(other)
        replica = await start_replica("resume", *flags, secret=SECRET)
        port, token = await sse_port_of(replica), replica.token()
        process = await asyncio.create_subprocess_exec(
            *curl(port, "red", token), stdout=asyncio.subprocess.PIPE
        )
        stream = await heard_by(process)
        await join(stream)
        for number in range(5):
            await post(port, "red", number)
        last_id = [await stream.must() for _ in range(5)][-1].id
        replica.process.kill()
        await replica.process.wait()
        assert await stream.next() is None
        await process.wait()
        for number in range(5, 25):  # while the stream is closed
            await post(there, "red", number)
        again = ("--port", "0", *flags)
        async with running_replica("resume", *again, secret=SECRET) as replica:
            port = await sse_port_of(replica)
            process = await asyncio.create_subprocess_exec(
                *curl(port, "red", token, "-H", f"Last-Event-ID: {last_id}"),
                stdout=asyncio.subprocess.PIPE,
            )
            stream = await heard_by(process)
            joined = await stream.must()
            assert joined.data["recovered"] is True
            assert joined.id == last_id  # nothing newer has arrived yet
            assert await stream.payloads(20) == list(range(5, 25))
            await post(there, "red", "live")
            assert await stream.payloads(1) == ["live"]
            process.terminate()
            await process.wait()


async def test_header_is_newer_than_the_url(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        async with listening(server, "red") as stream:
            start = await join(stream)
            for number in range(4):
                await post(server, "red", number)
            third = [await stream.must() for _ in range(3)][-1].id
        url = f"/rooms/red?after={start}"
        async with listening(server, "red", path=url) as stream:
            await join(stream)
            assert await stream.payloads(4) == [0, 1, 2, 3]
        async with listening(server, "red", third, path=url) as stream:
            await join(stream)
            assert await stream.payloads(1) == [3]


async def test_cursor_that_is_too_old_is_told_where_the_room_stands(
    running: Running,
) -> None:
    async with running("resume", sse_port=0, history_limit=2) as server:
        async with listening(server, "red") as stream:
            start = await join(stream)
        for number in range(5):
            await post(server, "red", number)
        async with listening(server, "red", start) as stream:
            joined = await stream.must()
            assert joined.data["recovered"] is False
            assert joined.id.endswith(":5")
            await post(server, "red", 5)
            assert await stream.payloads(1) == [5]


async def test_stream_of_an_epoch_that_is_gone_gets_what_the_new_one_has(
    running: Running,
) -> None:
    async with running("resume", sse_port=0) as server:
        async with listening(server, "red") as stream:
            await join(stream)
        for number in range(3):
            await post(server, "red", number)
        async with listening(server, "red", "gone:9") as stream:
            joined = await stream.must()
            assert joined.data["recovered"] is False
            assert joined.id.endswith(":0")
            assert await stream.payloads(3) == [0, 1, 2]


async def test_numbering_that_begins_anew_changes_the_ids(
    running: Running, redis: Redis
) -> None:
    async with (
        running("resume", sse_port=0) as server,
        listening(server, "red") as stream,
    ):
        before = await join(stream)
        await post(server, "red", 1)
        await stream.must()
        redis.flushall()
        await post(server, "red", 2)
        joined = await stream.must()
        assert joined.event == "joined"
        assert joined.data["recovered"] is False
        epoch = joined.data["epoch"]
        assert epoch != before.partition(":")[0]
        assert joined.id == f"{epoch}:{joined.data['seq']}"
        await post(server, "red", 3)
        assert (await stream.must()).id.startswith(f"{epoch}:")


async def test_numbering_that_goes_on_moves_no_cursor(running: Running) -> None:
    """Not forward, past messages that are still to come, and not back to the start."""
    async with running("resume", sse_port=0) as server:
        async with listening(server, "red") as stream:
            start = await join(stream)
        await post(server, "red", 1)
        async with listening(server, "red", start) as stream:
            assert await join(stream) == start
            assert (await stream.must()).data["seq"] == 1
            server.hub.renumber("red", "f", 2, goes_on=True)
            joined = await stream.must()
            assert (joined.event, joined.data["epoch"]) == ("joined", "f")
            assert joined.id == ""  # the client keeps its last id


@pytest.mark.parametrize("cursor", ["7", "e:x", "e:-1", "e:" + "9" * 30, ":1"])
async def test_invalid_cursor_is_refused(cursor: str, running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        answer = await ask(
            server, "GET", "/rooms/red", headers={"Last-Event-ID": cursor}
        )
        assert (answer.status, answer.body["code"]) == (400, "bad_message")


# Slow readers


async def stalled(port: int) -> asyncio.StreamWriter:
    """Open a stream that reads its first event and then never again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(request("GET", "/rooms/red", token=issue(SECRET, "sloth")))
    await reader.readuntil(b'"joined"')
    writer.transport.pause_reading()
    return writer


SLOW = {"sse_port": 0, "send_buffer": 16384, "outbox_limit": 50_000}


@pytest.mark.parametrize("policy", ["disconnect", "drop-oldest", "conflate"])
async def test_slow_reader_is_bounded_and_hurts_nobody(
    policy: str, running: Running
) -> None:
    async with (
        running("resume", **SLOW, outbox_policy=policy, stuck_timeout=0.5) as server,
        peer(server) as ann,
        listening(server, "red") as stream,
    ):
        await join(stream)
        sloth = await stalled(port_of(server))
        worst = 0
        for number in range(300):
            await ann.ask(type="publish", room="red", payload="x" * 20_000)
            (waiting,) = [
                each.outbox.waiting()
                for each in server.visitors
                if each.identity.user == "sloth"
            ] or [0]
            worst = max(worst, waiting)
            assert (await stream.must()).data["seq"] == number + 1
        # One message may be on its way into the socket, beside those that wait.
        assert 0 < worst <= 50_000 + 21_000
        await eventually(lambda: len(server.visitors) == 1)
        assert server.metrics.closes[4409, "server"] == 1
        sloth.transport.abort()


async def test_slow_reader_is_told_what_it_lost_and_goes_on(running: Running) -> None:
    async with (
        running("resume", **SLOW, outbox_policy="drop-oldest") as server,
        peer(server) as ann,
        listening(server, "red", limit=1024) as stream,
    ):
        epoch = (await join(stream)).partition(":")[0]
        stream.writer.transport.pause_reading()
        for _ in range(600):
            await ann.ask(type="publish", room="red", payload="x" * 10_000)
        assert server.metrics.drops > 0
        stream.reader._limit = 2**20
        stream.writer.transport.resume_reading()
        seen, gaps = 0, 0
        while seen < 600:
            event = await stream.must()
            if event.event == "gap":
                gaps += 1
                assert event.data["from"] == seen + 1
                seen = event.data["to"]
            else:
                assert event.data["seq"] == seen + 1
                seen += 1
            assert event.id == f"{epoch}:{seen}"
        assert gaps


# The end


async def test_stream_ends_with_its_token(running: Running) -> None:
    token = issue(SECRET, "ann", ttl=4)
    async with (
        running("resume", sse_port=0) as server,
        listening(server, "red", token=token) as stream,
    ):
        await join(stream)
        (last,) = await stream.rest()
        assert (last.event, last.data["code"]) == ("close", 4401)
        assert (await ask(server, "GET", "/rooms/red", token=token)).status == 401
        assert server.metrics.closes[4401, "server"] == 1


async def test_drain_tells_streams_when_to_return(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        async with listening(server, "red") as stream:
            await join(stream)
            draining = asyncio.create_task(server.drain(5.0))
            (last,) = await stream.rest()
            assert (last.event, last.data["code"]) == ("close", 1001)
            assert last.data["reason"] == f"draining retry_after_ms={last.retry}"
            assert last.retry >= 1000  # an EventSource has no back-off of its own
        await draining


async def test_draining_server_admits_no_more(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        server.draining = True
        assert (await ask(server, "GET", "/rooms/red")).status == 503
        assert (await ask(server, "GET", "/readyz", token="")).status == 503
        assert (await ask(server, "GET", "/healthz", token="")).status == 200
        server.draining = False


async def test_drain_does_not_wait_for_clients_that_do_not_read(
    running: Running,
) -> None:
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running("resume", **SLOW, drain_timeout=0.5)
        )
        sloths = [await stalled(port_of(server)) for _ in range(3)]
        for _ in range(200):
            await post(server, "red", "x" * 20_000)
        async with asyncio.timeout(DEADLINE):  # the clients do not read until then
            await stack.aclose()
    assert asyncio.all_tasks() == before
    for sloth in sloths:
        sloth.transport.abort()


@IN_PROCESSES
async def test_no_token_is_written_down(redis_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "labserver", "serve", "--port", "0"),
            *("--sse-port", "0", "--without", "broker"),
            env={**os.environ, "LAB_SECRET": SECRET},
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
        )
        replica = Replica("", SECRET, process)
        await process.stdout.readline()  # type: ignore[union-attr]
        port = await sse_port_of(replica)
        token = replica.token()
        for path in ("red", "no such room", "red/poll"):
            place = f"/rooms/{path.replace(' ', '%20')}?wait=0&token={token}"
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request("GET", place, token=""))
                await reader.readline()
                writer.transport.abort()
        await ask(port, "POST", f"/rooms/red?token={token}x", b"1", token="")
        assert await replica.stop() == 0
    assert token not in log.read_text()


# EventSource: by its standard, every status but 200 ends it for good

ASKS = {"Accept": "text/event-stream"}


async def turned_away(server: LabServer) -> None:
    """Check that a refused EventSource gets a stream that says when to return."""
    assert (await ask(server, "GET", "/rooms/red")).status in (429, 500, 503)
    async with listening(server, "red", headers=ASKS) as stream:
        (last,) = await stream.rest()
        assert (last.event, last.data["code"]) == ("close", 1013)
        assert last.retry is not None
        assert last.retry >= 1000
        assert last.data["reason"].endswith(f" retry_after_ms={last.retry}")


@pytest.mark.parametrize(
    "limits", [{"connection_limit": 1}, {"address_limit": 1}, {"admission_rate": 0.01}]
)
async def test_stream_that_is_one_too_many_is_asked_to_come_back(
    limits: dict[str, Any], running: Running
) -> None:
    async with (
        running("resume", sse_port=0, **limits) as server,
        listening(server, "red", headers=ASKS) as stream,
    ):
        await join(stream)
        await turned_away(server)


async def test_stream_that_the_broker_fails_is_asked_to_come_back(
    running: Running,
) -> None:
    async with (
        embedded_redis() as own,
        running("resume", sse_port=0, redis=own.url) as server,
    ):
        own.stop()
        await turned_away(server)


async def test_stream_that_fails_here_is_asked_to_come_back(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    async with running("resume", sse_port=0) as server:
        monkeypatch.setattr(server.application, "handle", fail)
        await turned_away(server)
        assert not server.visitors


async def test_stream_that_can_never_be_is_refused_for_good(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        for token, status in (("", 401), (issue(SECRET, "ann", ["blue"]), 403)):
            said = await ask(server, "GET", "/rooms/red", headers=ASKS, token=token)
            assert said.status == status


STREAMS = """([token, count]) => {
    window.heard = [];
    window.ended = 0;
    window.streams = Array.from({ length: count }, (_, number) => {
        const stream = new EventSource(`/rooms/red?token=${token}`);
        stream.addEventListener("message", ({ data }) => {
            heard.push([number, JSON.parse(data).payload]);
        });
        stream.onerror = () => (ended += stream.readyState === EventSource.CLOSED);
        return stream;
    });
}"""


@pytest.mark.long
class TestInBrowser:
    pytestmark = [*needs_browser, IN_PROCESSES]

    async def test_event_sources_survive_a_restart_under_an_admission_rate(
        self, redis: Redis, redis_url: str
    ) -> None:
        shared = ("--redis", redis_url)
        flags = ("--admission-rate", "2", *shared)
        other = running_replica("resume", "--sse-port", "0", *shared, secret=SECRET)
        async with other as publisher, launched() as browser:
            elsewhere = await sse_port_of(publisher)
            replica = await start_replica(
                "resume", "--sse-port", "0", *flags, secret=SECRET
            )
            port = await sse_port_of(replica)
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{port}/healthz")
            await page.evaluate(STREAMS, [replica.token(), 5])
            await all_hear(page, elsewhere, "before")
            assert await replica.stop() == 0
            async with running_replica(
                "resume", "--sse-port", str(port), *flags, secret=SECRET
            ):
                await all_hear(page, elsewhere, "after")


async def all_hear(page: Any, port: int, text: str) -> None:
    """Publish until each stream of a page has got a message: they open one by one."""

    async def heard() -> bool:
        await post(port, "red", text)
        heard, ended = await page.evaluate("[heard, ended]")
        assert ended == 0, "a stream was closed for good"
        return len({number for number, said in heard if said == text}) == 5

    await eventually(heard, within=40)


# The command line


@IN_PROCESSES
async def test_stage_without_rooms_has_no_sse_port() -> None:
    from labserver.processes.launch import NotListening

    with pytest.raises(NotListening, match="--sse-port .* needs the stage rooms"):
        await start_replica("auth", "--sse-port", "0")


@IN_PROCESSES
async def test_missing_extra_is_named_in_one_line() -> None:
    code = (
        "import sys; sys.modules['sse_starlette'] = None; "
        "from labserver.cli import main; main()"
    )
    command = ("serve", "--stage", "rooms", "--port", "0", "--sse-port", "0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *command),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    (line,) = said.decode().splitlines()
    assert "pip install '.[sse]'" in line


def test_json_of_an_event_is_one_line() -> None:
    from labserver.contract.wire import stream_event

    event = stream_event(b'{"type":"message",\r\n"payload":"a\\nb"}', "e:1")
    lines = event.decode().split("\n")
    assert lines[:2] == ["id: e:1", "event: message"]
    assert json.loads(lines[2].removeprefix("data: "))["payload"] == "a\nb"
    assert lines[3:] == ["", ""]
