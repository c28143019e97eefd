"""The load tests: real servers, and Locust in a subprocess."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from labserver.processes.cluster import running_cluster, running_replica
from tests.conftest import eventually

ROOT = Path(__file__).parents[2]
LOADTESTS = ROOT / "loadtests"
SECRET = "a secret of thirty-two bytes or more"


# The files that Locust loads


def collected() -> list[Path]:
    return [path for path in LOADTESTS.rglob("*.py") if not path.name.startswith("_")]


def classes(path: Path) -> list[ast.ClassDef]:
    tree = ast.parse(path.read_text())
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("path", collected(), ids=lambda path: path.stem)
def test_scenario_file_holds_only_concrete_users(path: Path) -> None:
    """Locust loads each file as its own module: shared code would exist twice."""
    kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.ClassDef)
    assert all(isinstance(node, kinds) for node in ast.parse(path.read_text()).body)
    for each in classes(path):
        names = {
            target.id: node.value
            for node in each.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert "abstract" not in names
        assert ast.literal_eval(names["scenario"]) == path.stem


def test_user_class_names_are_unique() -> None:
    names = [each.name for path in collected() for each in classes(path)]
    assert len(names) == len(set(names))


def test_scenario_files_hide_no_other_module() -> None:
    """Locust loads a file under its bare name: redis.py would replace redis."""
    for path in collected():
        assert path.stem not in sys.stdlib_module_names
        assert path.stem not in {"redis", "websockets", "locust", "labserver"}


def test_shared_users_say_literally_that_they_are_abstract() -> None:
    found = [each for path in LOADTESTS.glob("_*.py") for each in classes(path)]
    users = {"User", "WebSocketUser"} | {
        each.name for each in found if "abstract = True" in ast.unparse(each)
    }
    for each in found:
        if {base.id for base in each.bases if isinstance(base, ast.Name)} & users:
            assert each.name in users


# Locust itself


Condition = Callable[[], Awaitable[bool]]


@asynccontextmanager
async def started(
    *arguments: str, prefix: Sequence[str] = (), **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start Locust without its page, after ``prefix``; it ends with the block."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LAB_")}
    process = await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-m", "locust", "-f", "loadtests", "--headless"),
        *arguments,
        cwd=ROOT,
        env={**environment, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def locust(
    *arguments: str, until: Condition | None = None, **variables: str
) -> tuple[int, str, str]:
    """Run Locust without its page; return exit code, stdout and stderr.

    Args:
        arguments: Arguments of Locust.
        until: When this holds, all its processes get SIGINT, as after Ctrl-C. So a run
            is as long as a slow machine needs.
        variables: Variables of its environment.

    """
    async with started("--only-summary", *arguments, **variables) as process:
        said = asyncio.create_task(process.communicate())
        if until is not None:
            while not (said.done() or await until()):  # noqa: ASYNC110 (a process)
                await asyncio.sleep(0.05)
            if not said.done():
                os.killpg(process.pid, signal.SIGINT)
        out, err = await said
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def reached(url: str, **least: int) -> Condition:
    """Return a function that checks whether metrics have reached these values."""
    page = url.replace("ws", "http", 1) + "/metrics"

    def look() -> bool:
        with urllib.request.urlopen(page, timeout=10) as response:
            text = response.read().decode()
        return all(
            float(text.partition(f"\nlabserver_{name} ")[2].partition("\n")[0]) >= most
            for name, most in least.items()
        )

    return lambda: asyncio.to_thread(look)


def written(results: Path) -> Path | None:
    """Return the folder of the only run; None if there was no run."""
    folders = list(results.iterdir())
    assert len(folders) <= 1
    return folders[0] if folders else None


def figures(results: Path) -> dict[str, Any]:
    folder = written(results)
    assert folder is not None
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_default_mix_delivers_everything(tmp_path: Path) -> None:
    async with running_replica(secret=SECRET) as replica:
        code, out, err = await locust(
            *("--host", replica.url, "-u", "30", "-r", "30", "-t", "40s"),
            *("--results", str(tmp_path), "--lag-limit", "10000"),
            until=reached(replica.url, connections=20, messages_published_total=200),
            LAB_SECRET=SECRET,
        )
    assert code == 0, out + err
    assert "verdict  VALID" in out
    found = figures(tmp_path)
    for group in ("fanout/subscribers", "replicas/members", "slow_readers/healthy"):
        tally = found["completeness"][group]
        assert tally["delivered"] == tally["expected"] > 0
    assert found["latency_from_due_us"]["fanout/subscribers"]["p99"] > 0
    assert found["generator"]["slip_us"]["count"] == sum(found["published"].values())
    folder = written(tmp_path)
    assert folder is not None
    assert folder.name.endswith("Z-mixed")
    assert set(os.listdir(folder)) == {
        *("run.json", "summary.json", "part-0.json", "timeline.csv"),
        *("mixed-percentiles.png", "mixed-budget.png", "mixed-timeline.png"),
        "slow_readers.png",  # with one server there are no replicas to compare
    }
    assert SECRET not in (folder / "run.json").read_text()


class LossyServer:
    """A server that speaks the contract, and loses one delivery in a thousand.

    Args:
        delay: Seconds before a message is delivered.

    """

    def __init__(self, delay: float = 0) -> None:
        self.delay = delay
        self.members: list[ServerConnection] = []
        self.seq = self.deliveries = self.dropped = 0

    async def converse(self, connection: ServerConnection) -> None:
        await self.send(
            connection,
            {
                "type": "hello",
                **{"id": "c", "user": "u", "stage": "resume", "replica": "r"},
                "heartbeat": None,
            },
        )
        async for text in connection:
            message = json.loads(text)
            place = {"room": message["room"], "seq": self.seq, "ref": message["ref"]}
            if message["type"] == "join":
                self.members.append(connection)
                joined = {"type": "joined", "epoch": "e", "recovered": False, **place}
                await self.send(connection, joined)
                continue
            self.seq += 1
            await self.send(connection, {"type": "ack", **place, "seq": self.seq})
            news = {
                "type": "message",
                **{"room": message["room"], "seq": self.seq, "from": "u"},
                "payload": message["payload"],
            }
            await asyncio.sleep(self.delay)
            for member in self.members:
                self.deliveries += 1
                if self.deliveries % 1000 == 0:
                    self.dropped += 1
                else:
                    await self.send(member, news)

    async def send(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        await connection.send(json.dumps(message))


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_injected_loss_is_counted_exactly_and_fails_the_run(
    tmp_path: Path,
) -> None:
    lossy = LossyServer()

    async def lost_three() -> bool:
        return lossy.dropped >= 3

    async with serve(lossy.converse, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        code, out, _ = await locust(
            *("--host", f"ws://127.0.0.1:{port}", "-u", "10", "-r", "10", "-t", "40s"),
            *("--publish-rate", "100", "--results", str(tmp_path), "--no-pictures"),
            *("FanoutPublisher", "FanoutSubscriber"),
            until=lost_three,
            LAB_TOKEN="any",
        )
    assert code == 1, out
    tally = figures(tmp_path)["completeness"]["fanout/subscribers"]
    assert tally["lost"] == lossy.dropped > 0
    assert tally["expected"] == 10 * lossy.seq == lossy.deliveries
    assert lossy.dropped == lossy.deliveries // 1000
    assert f"{lossy.dropped} lost in fanout/subscribers" in out


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_message_that_is_slow_at_the_end_is_waited_for(tmp_path: Path) -> None:
    slow = LossyServer(delay=1)

    async def published() -> bool:
        return slow.seq > 0

    async with serve(slow.converse, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        code, out, _ = await locust(
            *("--host", f"ws://127.0.0.1:{port}", "-u", "4", "-r", "4", "-t", "40s"),
            *("--publish-rate", "0.5", "--results", str(tmp_path), "--no-pictures"),
            *("FanoutPublisher", "FanoutSubscriber"),
            until=published,
            LAB_TOKEN="any",
        )
    tally = figures(tmp_path)["completeness"]["fanout/subscribers"]
    assert tally["delivered"] == tally["expected"] == 4 * slow.seq, out
    assert code in (0, 4), out


# None stands for a server that hangs up during the handshake.
REFUSALS = (408, 425, 520, 530, None)


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_users_come_back_after_a_passing_refusal(tmp_path: Path) -> None:
    """One run with a user for each refusal, which all of them get in one break."""
    server, users = LossyServer(), len(REFUSALS)
    refused: list[int | None] = []

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        if len(server.members) < users or len(refused) == users:
            return None
        answer = REFUSALS[len(refused)]
        refused.append(answer)
        if answer is None:
            connection.transport.abort()
        return Response(answer or 503, "later", Headers({"Content-Length": "0"}), b"")

    async def back() -> bool:
        if len(server.members) == users:
            for member in server.members:
                member.transport.abort()
        return len(server.members) == 2 * users

    async with serve(
        server.converse, "127.0.0.1", 0, compression=None, process_request=refuse
    ) as listening:
        port = listening.sockets[0].getsockname()[1]
        _, out, _ = await locust(
            *("--host", f"ws://127.0.0.1:{port}", "-u", f"{users}", "-r", f"{users}"),
            *("-t", "30s", "--results", str(tmp_path), "--no-pictures"),
            "FanoutSubscriber",
            until=back,
            LAB_TOKEN="any",
        )
    assert len(server.members) == 2 * users, out
    assert tuple(refused) == REFUSALS, out
    # Not only in the drain at the end of a run, when every user connects again.
    assert figures(tmp_path)["generator"]["seconds"] < 25, out


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_two_processes_on_two_replicas_add_up(tmp_path: Path) -> None:
    async with running_cluster(2, secret=SECRET) as cluster:
        urls = ",".join(replica.url for replica in cluster.replicas)
        code, out, err = await locust(
            *("--replicas", urls, "--processes", "2", "-u", "8", "-r", "8"),
            *("--results", str(tmp_path), "--lag-limit", "10000", "--no-pictures"),
            *("-t", "40s", "ReplicaPublisher", "ReplicaReader"),
            until=reached(cluster.replicas[0].url, deliveries_total=80),
            LAB_TOKEN=cluster.replicas[0].token(),
        )
    assert code == 0, out + err
    found = figures(tmp_path)
    tally = found["completeness"]["replicas/members"]
    assert tally["delivered"] == tally["expected"] > 0
    # Each of eight members got every message, the publisher included.
    assert tally["expected"] == 8 * found["published"]["replicas"]
    latency = found["latency_from_due_us"]
    sides = [latency[f"replicas/{side} replica"]["count"] for side in ("same", "other")]
    # A process that stood still does not know when it could have read a message.
    unmeasured = found["unmeasured"].get("replicas", 0)
    assert sum(sides) + unmeasured == tally["delivered"]
    assert all(sides)
    assert found["generator"]["processes"] == 2


@pytest.mark.long
@pytest.mark.timeout(90)
async def test_worker_that_died_is_missed_though_another_took_its_place(
    tmp_path: Path,
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_replica(secret=SECRET))
        variables = {"LAB_TOKEN": server.token()}
        master = await stack.enter_async_context(
            started(
                *("--master", "--master-bind-host", "127.0.0.1"),
                *("--master-bind-port", port, "--expect-workers", "2"),
                *("--host", server.url, "-u", "4", "-r", "4", "-t", "60s"),
                *("--results", str(tmp_path), "--lag-limit", "10000"),
                *("--no-pictures", "FanoutPublisher", "FanoutSubscriber"),
                **variables,
            )
        )

        async def worker() -> asyncio.subprocess.Process:
            process = await stack.enter_async_context(
                started("--worker", "--master-port", port, **variables)
            )
            assert master.stderr is not None
            while b"reported as ready" not in (line := await master.stderr.readline()):
                assert line, "the master is gone"
            return process

        dies, _ = await worker(), await worker()
        await eventually(reached(server.url, deliveries_total=20), within=30)
        dies.kill()
        await dies.wait()
        await worker()
        master.send_signal(signal.SIGINT)
        out, _ = await master.communicate()
    assert "INVALID" in out.decode()
    assert "1 worker(s) sent no figures" in out.decode(), out.decode()
    assert master.returncode == 4


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_run_that_cannot_start_says_why_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can use it
        closed = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        cases = [
            (3, "no server answers at", ("--host", closed), {"LAB_SECRET": SECRET}),
            (2, "there is no token", ("--host", closed), {}),
            (2, "this machine only", ("--host", "ws://192.0.2.1"), {"LAB_TOKEN": "t"}),
            (2, "at most 3600", ("--host", closed, "-t", "2h"), {"LAB_TOKEN": "t"}),
            (2, "at least 1 user", ("--host", closed, "-u", "0"), {"LAB_TOKEN": "t"}),
        ]
        answers = await asyncio.gather(
            *(
                locust(*arguments, "--results", str(tmp_path), **variables)
                for _, _, arguments, variables in cases
            )
        )
    for (expected, sentence, _, _), (code, out, err) in zip(
        cases, answers, strict=True
    ):
        assert code == expected, err
        assert sentence in err.splitlines()[-1]
        assert "Traceback" not in err + out
        assert len(err.splitlines()) <= 2
    assert written(tmp_path) is None


LATE = """
import types
from loadtests import fanout, idle, slow_readers
from labserver.load.figures.record import Record
for kind in (
    fanout.FanoutSubscriber, idle.DeadPeer, slow_readers.StalledReader,
    slow_readers.ThrottledReader, slow_readers.OscillatingReader,
):
    user = kind.__new__(kind)
    user.record, user.scenario = Record(), "s"
    user.socket = types.SimpleNamespace(lag=10**9, arrived=1)
    user.took([])
    print(user.record.lag.count)
"""


async def test_only_prompt_readers_measure_the_generators_lag() -> None:
    """Users that play dead or slow peers read late on purpose, not for lack of time."""
    assert (await printed(LATE)).split() == ["1", "0", "0", "0", "0"]


STRANGE = """
from loadtests import fanout
from labserver.load.dialects.lab import Lab
from labserver.load.figures.audit import Audit
from labserver.load.figures.record import Record
user = fanout.FanoutSubscriber.__new__(fanout.FanoutSubscriber)
user.record, user.audit, user.dialect = Record(), Audit("a"), Lab("ann")
user.audit.joined({"epoch": "e", "seq": 0, "recovered": False})
head = b'{"type":"message","room":"a","from":"b","seq":%d,"payload":'
for seq, payload in enumerate([b"9" * 5000, b'"x"', b"1e400"], 1):
    user.handle(head % seq + payload + b"}")
for text in [b"{", b"[1]", b"1", b"", b"{}", b"\\xff", head % 9 + b"[" * 100_000]:
    user.handle(text)
print(user.audit.last(), sum(user.record.problems.values()))
"""


async def test_nothing_that_a_server_says_ends_a_user() -> None:
    """Messages with foreign payloads count; unreadable ones are counted as problems."""
    assert (await printed(STRANGE)).split() == ["3", "7"]


INTERRUPTED = """
import os, signal, sys
import gevent
from labserver.load.run import life
from locust.env import Environment
environment = Environment()
life.listen(environment, environment.create_local_runner())
def user():
    os.kill(os.getpid(), signal.SIGINT)
    print("a user goes on")
busy = gevent.spawn(user)
try:
    gevent.sleep(30)
except KeyboardInterrupt:
    print("the main greenlet is told")
busy.join()
"""


async def test_ctrl_c_ends_no_user_that_happens_to_run() -> None:
    """A user that ended in the middle of a message would make it look lost."""
    said = (await printed(INTERRUPTED)).splitlines()
    assert said == ["a user goes on", "the main greenlet is told"]


HASTY_MASTER = f"""
import os
os.environ["LAB_SECRET"] = {SECRET!r}
from loadtests import fanout
from locust.argument_parser import parse_options
from locust.env import Environment
from locust.runners import WorkerRunner
from gevent.pool import Group
from labserver.load.run import options
environment = Environment(
    user_classes=[fanout.FanoutSubscriber], parsed_options=parse_options(["--worker"])
)
environment.host = "ws://127.0.0.1:8080"  # the master's job came first
worker = WorkerRunner.__new__(WorkerRunner)
worker.greenlet = Group()
options.check_or_leave(environment=environment, runner=worker)
print(environment.host)
"""


async def test_worker_that_joins_a_run_keeps_the_host_of_its_master() -> None:
    """Its first job may come before its own start is complete."""
    assert (await printed(HASTY_MASTER)).split()[-1] == "ws://127.0.0.1:8080"


# Host, LAB_LOAD_HOSTS, whether load may go there.
PLACES = [
    ("10.1.2.3", "", False),
    ("10.1.2.3", "router, 10.1.2.3", True),
    ("10.1.2.3", "10.1.2", False),  # no prefix: the whole name
    ("10.1.2.3", "*", False),
    ("1.1.1.1", "1.1.1.1", False),  # a public address, so never
    ("127.0.0.1", "router", True),
]
ASK = f"""
import os, sys
from labserver.processes import reach
for host, named, _ in {PLACES}:
    os.environ["LAB_LOAD_HOSTS"] = named
    try:
        print(bool(reach.resolve(f"ws://{{host}}:8080")))
    except reach.NotThisMachine:
        print(False)
"""


async def printed(program: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(40):
        out, _ = await process.communicate()
    return out.decode()


async def test_load_leaves_this_machine_only_for_named_private_hosts() -> None:
    assert (await printed(ASK)).split() == [str(may) for _, _, may in PLACES]


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_wrong_secret_and_echo_stage_are_refused_before_any_user(
    tmp_path: Path,
) -> None:
    async with running_replica("auth", secret=SECRET) as early:
        (wrong, _, said), (echo, _, told) = await asyncio.gather(
            locust("--host", early.url, "--results", str(tmp_path), LAB_SECRET="x"),
            locust("--host", early.url, "--results", str(tmp_path), LAB_SECRET=SECRET),
        )
    assert wrong == echo == 3
    assert "401" in said
    assert "stage auth, which has no rooms" in told
