"""The server's log: it has what an operator looks for, and never a token."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.contract.tokens import issue
from labserver.redis.embedded import embedded_redis
from labserver.server import logs
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer
from tests.support.plain_http import ask


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger for one test, so that it changes no other logger's settings."""
    logger = logging.getLogger("labserver.test_logs")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers.clear()


def lines_of(
    log: logging.Logger, formatter: logging.Formatter, *filters: logging.Filter
) -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    for each in filters:
        handler.addFilter(each)
    log.addHandler(handler)
    return stream


async def test_redis_that_refuses_everything_does_not_fill_the_log(
    running: Running,
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    handler.addFilter(logs.Sparing())
    logger = logging.getLogger("labserver")
    async with (
        embedded_redis("--maxmemory", "1") as redis,
        running("resume", redis=redis.url) as server,
        peer(server) as ann,
    ):
        logger.addHandler(handler)
        try:
            began = time.monotonic()
            for _ in range(1000):
                answer = await ann.ask(type="publish", room="red", payload=1)
                assert answer["code"] == "broker_down"
            took = time.monotonic() - began
        finally:
            logger.removeHandler(handler)
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    refused = [line for line in said if "failed at Redis" in line["message"]]
    assert 0 < len(refused) <= logs.BURST + logs.RATE * took + 1
    assert "used memory" in refused[0]["message"]


def test_json_is_one_object_a_line(log: logging.Logger) -> None:
    stream = lines_of(log, logs.JsonFormatter())
    log.warning("a\nb", extra={"connection": "c1", "user": "ann\n", "code": 4409})
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == "a\nb"
    assert (first["level"], first["process"]) == ("warning", os.getpid())
    assert (first["connection"], first["user"], first["code"]) == ("c1", "ann\n", 4409)
    assert first["time"].endswith("Z")
    assert "ValueError: wrong" in second["exception"]
    assert "connection" not in second


def test_json_has_no_line_break_and_no_escape_that_a_peer_made_up(
    log: logging.Logger,
) -> None:
    stream = lines_of(log, logs.JsonFormatter())
    name = "ann\x85{}\u2028{}\x9b31m\u202e"
    log.warning("a", extra={"user": name})
    (line,) = stream.getvalue().splitlines()  # splits at Unicode line breaks, too
    assert line.isprintable()
    assert json.loads(line)["user"] == name


def test_text_has_no_line_and_no_pair_that_a_peer_made_up(log: logging.Logger) -> None:
    stream = lines_of(log, logs.TextFormatter())
    log.info("ended", extra={"user": "ann\nerror: a=b", "address": "::1", "code": 1000})
    assert stream.getvalue() == (
        'info: ended user="ann\\nerror: a=b" address=::1 code=1000\n'
    )


TOKEN = issue(SECRET, "ann")


@pytest.mark.parametrize(
    "text",
    [
        f"GET /?token={TOKEN}&a=b HTTP/1.1",
        "GET /?a=b&token=opaque-secret HTTP/1.1",
        "Authorization: Bearer opaque-secret",
        "Cookie: a=b; lab_token=opaque-secret; c=d",
        "Sec-WebSocket-Protocol: lab.json, bearer.opaque-secret",
        "redis://user:opaque-secret@redis:6379/0",
        f"somewhere else: {TOKEN}",
    ],
)
def test_text_that_looks_like_a_secret_is_replaced(text: str) -> None:
    said = logs.redacted(text)
    assert "***" in said
    assert TOKEN not in said
    assert "opaque" not in said


def test_text_that_is_no_secret_stays() -> None:
    text = "the broker is lost: ws://127.0.0.1:8080/ user=ann code=4409"
    assert logs.redacted(text) == text


def test_lines_about_connections_are_bounded(log: logging.Logger) -> None:
    sparing = logs.Sparing(rate=1e-6, burst=3)
    stream = lines_of(log, logs.TextFormatter(), sparing)
    for _ in range(10):
        log.info("ended", extra={"connection": "c"})
    log.info("draining")
    assert stream.getvalue().count("ended") == 3
    assert "draining" in stream.getvalue()
    sparing.bucket.level += 1.0  # some time later; lines left out cost nothing
    log.info("ended", extra={"connection": "c"})
    assert stream.getvalue().endswith("left_out=7\n")
    sparing.bucket.level += 1.0  # some time later; lines left out cost nothing
    log.info("ended", extra={"connection": "c"})
    assert stream.getvalue().endswith("connection=c\n")


async def test_strangers_on_either_port_cannot_fill_the_log(running: Running) -> None:
    logger = logging.getLogger("labserver")
    level = logger.level
    logger.setLevel(logging.INFO)
    stream = lines_of(logger, logs.TextFormatter(), logs.Sparing(rate=1e-9, burst=3))
    handler = logger.handlers[-1]
    try:
        async with running("rooms", sse_port=0) as server:
            for _ in range(10):
                assert (await ask(server, "GET", "/rooms/a", token="")).status == 401
                assert (await ask(server, "GET", "/rooms/a", token="no")).status == 401
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert stream.getvalue().count("refused") == 3


async def test_log_of_a_server_has_what_happened_and_no_token() -> None:
    bad = issue("another secret of thirty-two bytes", "eve")
    good = [issue(SECRET, "ann", ttl=1000 + number) for number in range(5)]
    own = {name: text for name, text in os.environ.items() if name[:4] != "LAB_"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver", "serve", "--port", "0"),
        *("--log-format", "json", "--log-level", "debug"),
        env={**own, "LAB_SECRET": SECRET, "LAB_NONSENSE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            url = (await process.stdout.readline()).decode().split()[2]
        names = []
        ways: list[tuple[str, dict[str, Any]]] = [
            (f"{url}/?token={good[0]}", {}),
            (url, {"additional_headers": {"Authorization": f"Bearer {good[1]}"}}),
            (url, {"additional_headers": {"Cookie": f"lab_token={good[2]}"}}),
            (url, {"subprotocols": ["lab.json", f"bearer.{good[3]}"]}),
        ]
        for address, how in ways:
            async with connect(address, ping_interval=None, **how) as client:
                names.append(json.loads(await client.recv())["id"])
                refresh = {"type": "refresh", "token": good[4], "ref": 1}
                await client.send(json.dumps(refresh))
                await client.recv()
        for address in (f"{url}/?token={bad}", f"{url}/?token=opaque-secret"):
            with pytest.raises(InvalidStatus):
                await connect(address)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = errors.decode()
    lines = [json.loads(line) for line in text.splitlines()]
    for secret in (SECRET, bad, *good, "opaque-secret"):
        assert secret not in text
        assert secret.rpartition(".")[2] not in text
    said = [line["message"] for line in lines]
    assert said[0] == "there is no setting LAB_NONSENSE"
    assert said[-2:] == ["draining", "drained"]
    (listening,) = [line for line in lines if line["message"] == "listening"]
    assert (listening["url"], listening["stage"]) == (url, "resume")
    opened = [line for line in lines if line["message"] == "connection opened"]
    ended = [line for line in lines if line["message"] == "connection ended"]
    assert [line["connection"] for line in opened] == names
    assert {line["connection"] for line in ended} == {*names}
    assert opened[0]["user"] == "ann"
    assert opened[0]["address"] == "127.0.0.1"
    assert said.count("handshake refused") == 2
    refused = lines[said.index("handshake refused")]
    assert (refused["status"], refused["level"]) == (401, "info")


async def test_log_has_clients_that_are_closed_and_not_those_that_leave(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "labserver")
    async with running("rooms", message_rate_limit=1) as server:
        async with peer(server):
            pass
        async with peer(server) as client:
            for _ in range(20):
                await client.send(type="ping")
            assert await client.closed() == 4429
        await eventually(lambda: not server.connections)
        ended = [each for each in caplog.records if "ended" in each.getMessage()]
        (line,) = ended
        assert (line.levelname, line.__dict__["code"]) == ("INFO", 4429)
        assert line.__dict__["connection"] == client.hello["id"]


async def test_broker_that_is_lost_and_comes_back_is_said_once_each(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with embedded_redis() as redis, running("broker", redis=redis.url) as server:

        def said(words: str) -> bool:
            return any(words in each.getMessage() for each in caplog.records)

        await eventually(lambda: not server.unready())
        redis.stop()
        await eventually(lambda: said("the broker is lost"))
        assert server.unready()
        await redis.start()
        await eventually(lambda: said("the broker is heard again"))
        assert not server.unready()
        about = [e for e in caplog.records if e.getMessage().startswith("the broker")]
        assert [each.levelname for each in about] == ["WARNING", "WARNING"]
