"""wss: the same promises over TLS, and a one-line error for a bad certificate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.contract.tokens import issue
from labserver.errors import SettingsError
from labserver.processes.cluster import running_replica, start_replica
from labserver.processes.launch import NotListening
from labserver.server.listening import tls
from labserver.server.server import LabServer
from labserver.settings import Settings
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer
from tests.support.plain_http import listening, poll, port_of, post
from tests.support.raw_sockets import bearer, said, upgrade

pytestmark = pytest.mark.needs("openssl")


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1."""

    cert: str
    key: str

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_cert": self.cert, "tls_key": self.key}

    @property
    def trust(self) -> ssl.SSLContext:
        """The context of a client that trusts only this certificate."""
        return ssl.create_default_context(cafile=self.cert)


def made(folder: Path, *options: str) -> Certificate:
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", cert),
            *(options or ("-nodes",)),
        ],
        check=True,
        capture_output=True,
    )
    return Certificate(cert, key)


async def test_page_that_came_in_clear_may_not_speak_through_tls(
    certificate: Certificate, running: Running
) -> None:
    async with running("auth", **certificate.settings) as server:
        for scheme, status in (("http", 403), ("https", 101)):
            headers = {
                "Authorization": f"Bearer {issue(SECRET, 'ann')}",
                "Origin": f"{scheme}://127.0.0.1:{server.port}",
            }
            try:
                async with peer(server, ssl=certificate.trust, headers=headers):
                    got = 101
            except InvalidStatus as exc:
                got = exc.response.status_code
            assert got == status


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return made(tmp_path_factory.mktemp("certificate"))


async def test_room_is_heard_through_tls(
    certificate: Certificate, running: Running
) -> None:
    async with running("resume", **certificate.settings) as server:
        assert server.url.startswith("wss://127.0.0.1:")
        trust = certificate.trust
        async with (
            peer(server, ssl=trust) as ann,
            peer(server, "bob", ssl=trust, compression="deflate") as bob,
        ):
            await ann.join("a")
            await bob.join("a")
            payload = "x" * 5000
            await ann.send(type="publish", room="a", payload=payload)
            for client in (ann, bob):
                assert (await client.until("message"))["payload"] == payload


async def test_client_without_tls_gets_nothing_and_holds_nothing(
    certificate: Certificate, running: Running
) -> None:
    async with running("auth", handshake_timeout=0.3, **certificate.settings) as server:
        for data in (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(data)
            async with asyncio.timeout(DEADLINE):
                with contextlib.suppress(ConnectionResetError):
                    assert b"HTTP" not in await reader.read()
            writer.transport.abort()
        assert not server.sockets


async def deaf(server: LabServer, trust: ssl.SSLContext) -> asyncio.StreamWriter:
    """Join a room over TLS, and then stop reading."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=trust, server_hostname="127.0.0.1", limit=1024
    )
    writer.write(upgrade("/", bearer(issue(SECRET, "deaf"))))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(said(type="join", room="a"))
    await reader.readuntil(b'"joined"')
    writer.transport.pause_reading()
    return writer


@pytest.mark.parametrize("policy", ["disconnect", "drop-newest"])
async def test_slow_reader_behind_tls_hurts_only_itself(
    policy: str, certificate: Certificate, running: Running
) -> None:
    limit = 50_000
    async with running(
        "backpressure",
        outbox_limit=limit,
        outbox_policy=policy,
        stuck_timeout=0.5,
        send_buffer=4096,
        message_rate_limit=0,
        **certificate.settings,
    ) as server:
        slow = await deaf(server, certificate.trust)
        try:
            async with peer(server, ssl=certificate.trust) as ann:
                await ann.join("a")
                (connection,) = (
                    each for each in server.connections if each.identity.user == "deaf"
                )
                most = sent = 0

                def over() -> bool:
                    return bool(server.metrics.drops or connection.ending)

                while not over():
                    await ann.send(type="publish", room="a", payload="x" * 4000)
                    sent += 1
                    assert (await ann.until("message"))["seq"] == sent
                    most = max(most, connection.outbox.waiting())
                    assert sent < 2000, "nothing ever waits behind TLS"
                # TLS itself holds 64 KB and a record more.
                assert most <= limit + 2**17
                await eventually(lambda: server.metrics.closes[4409, "server"] == 1)
                assert connection not in server.sockets
        finally:
            slow.transport.abort()


async def heard_and_polled(port: int, trust: ssl.SSLContext) -> None:
    async with listening(port, "a", ssl=trust) as stream:
        first = await stream.must()
        for number in range(3):
            payload = f"{number}" * 20_000
            assert (await post(port, "a", payload, ssl=trust)).status == 200
            assert await stream.payloads(1) == [payload]
    answer = await poll(port, "a", first.id, ssl=trust)
    assert len(answer.body["messages"]) == 3


async def test_event_streams_are_encrypted_too(
    certificate: Certificate, running: Running
) -> None:
    async with running("resume", sse_port=0, **certificate.settings) as server:
        assert server.web is not None
        assert server.web.url.startswith("https://")
        await heard_and_polled(port_of(server), certificate.trust)


@pytest.mark.loops("asyncio")  # the test reads a private attribute of its TLS
async def test_stream_that_leaves_takes_nothing_from_the_others(
    certificate: Certificate, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Its transport no longer knows its buffer's size while it is still a member."""
    async with (
        running(
            "resume", without=("broker",), sse_port=0, **certificate.settings
        ) as server,
        peer(server, "bob", ssl=certificate.trust) as bob,
    ):
        async with listening(server, "a", ssl=certificate.trust) as stream:
            await stream.must()
            await bob.join("a")  # bob is written to after the stream
            [visitor] = server.visitors
            stream.writer.close()  # TLS says goodbye
            said = 0
            while visitor in server.visitors:
                if visitor.socket._ssl_protocol is None:  # TLS is closed already
                    await server.parts.broker.publish("a", b'"from":"x","payload":1}')
                    said += 1
                await asyncio.sleep(0)
        assert said
        for seq in range(1, said + 1):
            assert (await bob.until("message"))["seq"] == seq
    assert not [each for each in caplog.records if each.exc_info]


async def test_serve_streams_events_through_tls(certificate: Certificate) -> None:
    # On uvloop, which has its own TLS.
    flags = ("--tls-cert", certificate.cert, "--tls-key", certificate.key)
    async with running_replica(
        "resume", *flags, "--sse-port", "0", secret=SECRET
    ) as server:
        assert server.process.stdout is not None
        line = (await server.process.stdout.readline()).decode()
        port = re.search(r"https://127\.0\.0\.1:(\d+)/", line)
        assert port is not None
        await heard_and_polled(int(port[1]), certificate.trust)


async def test_half_a_tls_handshake_meets_the_deadline_on_either_port(
    certificate: Certificate, running: Running
) -> None:
    async with running(
        "rooms", sse_port=0, handshake_timeout=0.3, **certificate.settings
    ) as server:
        for port in (server.port, port_of(server)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\x16\x03\x01")
            async with asyncio.timeout(DEADLINE):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.transport.abort()


@pytest.mark.parametrize("door", ["websocket", "sse"])
async def test_silence_in_tls_and_after_it_have_one_deadline(
    door: str, certificate: Certificate, running: Running
) -> None:
    within = 1.0
    async with running(
        "rooms", sse_port=0, handshake_timeout=within, **certificate.settings
    ) as server:
        port = server.port if door == "websocket" else port_of(server)
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.7 * within)
        await writer.start_tls(certificate.trust, server_hostname="127.0.0.1")
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert time.monotonic() - started < 1.4 * within
        writer.transport.abort()


def test_certificate_needs_its_key(certificate: Certificate) -> None:
    for one in ({"tls_cert": certificate.cert}, {"tls_key": certificate.key}):
        with pytest.raises(SettingsError, match="need each other"):
            Settings(**one)


def test_bad_certificate_is_one_line_that_names_the_setting(
    certificate: Certificate, tmp_path: Path
) -> None:
    other = made(tmp_path)
    folder = tmp_path / "locked"
    folder.mkdir()
    locked = made(folder, "-passout", "pass:secret")
    text = tmp_path / "text"
    text.write_text("nothing")
    for cert, key, why in (
        ("/nowhere/cert.pem", certificate.key, "LAB_TLS_CERT.*No such file"),
        (certificate.cert, "/nowhere/key.pem", "LAB_TLS_KEY.*No such file"),
        (certificate.cert, other.key, "the key belongs to another certificate"),
        (certificate.cert, str(text), "must be PEM"),
        (str(text), certificate.key, "must be PEM"),
        (locked.cert, locked.key, "without a password"),
    ):
        with pytest.raises(SettingsError, match=why) as problem:
            tls(Settings(tls_cert=cert, tls_key=key))
        assert "\n" not in str(problem.value)


async def test_serve_says_wss_and_means_it(certificate: Certificate) -> None:
    # A process of its own, so on uvloop, whose TLS is another.
    flags = ("--tls-cert", certificate.cert, "--tls-key", certificate.key)
    async with running_replica("backpressure", *flags) as server:
        assert server.url.startswith("wss://")
        address, trust = server.address(), certificate.trust
        async with connect(address, ssl=trust, ping_interval=None) as client:
            await client.send('{"type":"join","room":"a"}')
            for number in range(1, 51):
                message = {"type": "publish", "room": "a", "payload": "x" * 9000}
                await client.send(json.dumps(message))
                async with asyncio.timeout(DEADLINE):
                    while (said := json.loads(await client.recv())).get(
                        "seq"
                    ) != number:
                        assert said["type"] in ("hello", "joined")


async def test_serve_with_a_bad_certificate_ends_with_one_line(
    certificate: Certificate,
) -> None:
    flags = ("--tls-cert", certificate.cert, "--tls-key", "/nowhere/key.pem")
    with pytest.raises(NotListening) as ended:
        await start_replica("echo", *flags)
    assert str(ended.value) == (
        "labserver: --tls-key (LAB_TLS_KEY): /nowhere/key.pem: "
        "No such file or directory"
    )
