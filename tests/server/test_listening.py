"""Where a server listens: Unix sockets, and ports that processes share."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from labserver.errors import SettingsError
from labserver.processes.cluster import running_replica
from labserver.server.listening import PATH_LIMIT, open_unix
from labserver.server.server import LabServer
from labserver.settings import Settings, from_environment, to_environment
from tests.conftest import Running, eventually, peer


@pytest.fixture
def path() -> Iterator[Path]:
    with TemporaryDirectory(prefix="lab-") as folder:  # pytest's own is too long
        yield Path(folder, "lab.sock")


def through(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


async def test_room_is_heard_through_a_unix_socket(
    path: Path, running: Running
) -> None:
    async with running("resume", unix_socket=str(path)) as server:
        assert server.url == f"ws+unix://{path}"
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o660
        async with peer("ws://localhost", sock=through(path)) as ann:
            await ann.join("a")
            await ann.send(type="publish", room="a", payload=1)
            assert (await ann.until("message"))["payload"] == 1
            assert {each.address for each in server.connections} == {"unix"}
    assert path.name not in os.listdir(path.parent)


async def test_router_on_a_unix_socket_can_be_trusted(
    path: Path, running: Running
) -> None:
    async with running(
        "rooms", without=("auth",), unix_socket=str(path), trusted_proxies=("unix",)
    ) as server:
        headers = {"X-Forwarded-For": "198.51.100.7"}
        async with peer("ws://localhost", sock=through(path), headers=headers):
            assert {each.address for each in server.connections} == {"198.51.100.7"}


def left_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


async def test_socket_of_a_killed_server_is_taken_over(
    path: Path, running: Running
) -> None:
    left_behind(path)
    async with (
        running("echo", unix_socket=str(path)),
        peer("ws://localhost", sock=through(path)) as client,
    ):
        assert client.hello["stage"] == "echo"


async def test_socket_that_somebody_answers_on_is_not(
    path: Path, running: Running
) -> None:
    async with running("echo", unix_socket=str(path)):
        with pytest.raises(SettingsError, match="another server listens there"):
            open_unix(str(path), Settings())
        async with peer("ws://localhost", sock=through(path)):
            pass


async def test_socket_of_a_successor_is_left_alone(
    path: Path, running: Running
) -> None:
    async with running("echo", unix_socket=str(path)):
        os.unlink(path)
        left_behind(path)
    assert path.name in os.listdir(path.parent)


def test_what_cannot_be_a_socket_is_one_line(path: Path) -> None:
    path.write_text("a file")
    for place, why in (
        (str(path), "a file that is no socket"),
        (str(path.parent / "nowhere" / "lab.sock"), "No such file"),
        ("/tmp/" + "x" * PATH_LIMIT, "longer than"),
    ):
        with pytest.raises(SettingsError, match=why) as problem:
            open_unix(place, Settings())
        assert "LAB_UNIX_SOCKET" in str(problem.value)
        assert "\n" not in str(problem.value)
    assert path.read_text() == "a file"


async def test_port_is_shared_by_those_who_ask_and_by_nobody_else(
    running: Running,
) -> None:
    def another(**settings: bool) -> LabServer:
        chosen = Settings(**settings)
        return LabServer(one.parts, chosen, host=one.host, port=one.port)

    async with running("echo", reuse_port=True) as one:
        another(reuse_port=True).open_socket().close()
        with pytest.raises(SettingsError, match="in use"):
            another().open_socket()
        async with peer(one):
            await eventually(lambda: len(one.connections) == 1)


def test_environment_makes_the_same_settings() -> None:
    settings = Settings(
        secret="s",
        redis="redis://here",
        origins=("https://a.example", "null"),
        trusted_proxies=("unix", "10.0.0.0/8"),
        proxy_protocol=True,
        heartbeat_interval=0.25,
        reuse_port=True,
    )
    assert from_environment(to_environment(settings)) == settings
    assert from_environment(to_environment(Settings())) == Settings()


async def test_serve_says_where_its_unix_socket_is(path: Path) -> None:
    async with running_replica("backpressure", "--unix-socket", str(path)) as server:
        assert server.url == f"ws+unix://{path}"
        token = server.token()
        async with peer("ws://localhost", token=token, sock=through(path)) as client:
            await client.join("a")
            await client.send(type="publish", room="a", payload=1)
            assert (await client.until("message"))["payload"] == 1
        assert await server.stop() == 0
    assert path.name not in os.listdir(path.parent)
