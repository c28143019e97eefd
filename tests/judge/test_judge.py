"""Who judges is judged: right servers are green, wrong ones red, nonsense is said."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.cache import Missing, node_modules
from labserver.judge import PROBES, PROMISES, CannotJudge
from labserver.judge.outside import Command as CommandWorld
from labserver.judge.outside import commanded
from labserver.judge.program import Program
from labserver.judge.run import Verdict, checks_up_to, judge
from labserver.judge.starter import STARTERS
from labserver.mistakes import MISTAKES
from labserver.processes.cluster import running_replica
from tests.conftest import Command, eventually
from tests.support import hasty, leader
from tests.support.processes import alive

pytestmark = pytest.mark.long

SERVE = [sys.executable, "-m", "labserver", "serve", "--port", "{port}"]
# What a mistake breaks that can be seen from outside; None: nothing, as it is a price
# and no message, or as a full outbox ends the connection where nothing else is chosen.
SEEN = {
    "unguarded-parse": "what_is_wrong_is_answered",
    "double-numbers": "every_value_comes_back",
    "no-size-limit": "huge_message_is_refused",
    "accept-then-check": "strangers_are_refused_with_http",
    "algorithm-from-token": "forged_tokens_are_refused",
    "prefix-compare": "forged_tokens_are_refused",
    "no-origin-check": "pages_of_other_sites_are_refused",
    "expiry-once": "expired_token_ends_its_connection",
    "header-only": "token_may_come_in_four_ways",
    "anybodys-token": "new_token_is_for_the_same_user",
    "timer-outlives": None,
    "listener-per-join": "who_left_hears_nothing",
    "rooms-never-forgotten": None,
    "live-set": "others_may_vanish",
    "encoded-per-member": None,
    "write-per-message": None,
    "sweep-returns": "who_vanished_is_ended",
    "close-instead-of-abort": "who_vanished_is_ended",
    "pings-in-one-tick": "pings_are_no_burst",
    "library-keepalive": "who_vanished_is_ended",
    "unbounded-buffer": "memory_stays_bounded",
    "await-in-the-loop": "a_stuck_reader_holds_up_nobody",
    "dropped-in-silence": "no_loss_is_silent",
    "control-dropped": None,
    "deliver-locally": "replicas_agree_on_one_order",
    "own-message-twice": "replicas_agree_on_one_order",
    "subscribe-to-everything": None,
    "unsubscribe-races-join": "who_returns_at_once_hears",
    "no-resubscribe": "broken_link_loses_nothing",
    "no-epoch": "cursor_that_means_nothing_is_refused",
    "partial-replay": "cursor_that_is_too_old_is_refused",
    "epoch-alone": None,
    "nothing-is-none": "who_missed_nothing_is_told_so",
    "shared-replay": "who_returns_together_gets_its_own",
    "endless-replay": None,
    "replay-then-subscribe": "coming_back_while_others_speak",
    "live-overtakes-replay": "coming_back_while_others_speak",
    "ageless": "history_is_forgotten_with_age",
    "one-ring": "room_remembers_its_own_messages",
}

# What takes seconds is not asked of every mistake of a later stage.
LONG = {
    PROBES[name]
    for name in (
        *("who_vanished_is_ended", "pings_are_no_burst", "memory_stays_bounded"),
        *("a_stuck_reader_holds_up_nobody", "who_is_stuck_is_ended"),
        *("no_loss_is_silent", "who_reads_slowly_stays", "frozen_redis_loses_nothing"),
        *("who_joins_hears_all_that_follows", "who_reads_no_more_is_ended"),
        "new_token_is_for_the_same_user",
    )
}


async def verdict_on(argv: list[str], stage: str, patience: float = 3.0) -> Verdict:
    async with commanded(argv, stage, patience=patience) as world:
        return await judge(world, checks_up_to(PROMISES, stage))


def broken(verdict: Verdict) -> dict[str, str]:
    return {f.check: f.seen for f in verdict.findings if f.outcome == "broken"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stage", ["rooms", "resume"])
async def test_our_own_server_keeps_its_promises(stage: str) -> None:
    verdict = await verdict_on([*SERVE, "--stage", stage], stage, patience=10.0)
    assert broken(verdict) == {}
    assert verdict.status == 0
    assert {verdict.of(each) for each in verdict.stages} == {"kept"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SEEN)
async def test_mistake_breaks_its_own_promise(name: str) -> None:
    """And none before it: tests/mistakes asks the same parts, in one process."""
    stage = MISTAKES[name].stage
    argv = [*SERVE, "--stage", stage, "--mistake", name]
    own = [(stage, check) for check in PROMISES[stage]]
    async with commanded(argv, stage, patience=6.0) as world:
        if not SEEN[name]:  # what cannot be seen from outside alarms nobody
            quick = [pair for pair in own if pair[1] not in LONG]
            assert broken(await judge(world, quick)) == {}
            return
        seen: dict[str, str] = {}
        for _ in range(10):  # a race may need another try
            mine = [pair for pair in own if pair[1].__name__ == SEEN[name]]
            if seen := broken(await judge(world, mine)):
                break
    assert list(seen) == [SEEN[name]]


def test_every_mistake_of_a_server_is_judged() -> None:
    assert SEEN.keys() == {name for name, each in MISTAKES.items() if each.extend}


GIVES_UP = {
    "who_is_stuck_is_ended": "read nothing for 2 s is still",
    "who_reads_no_more_is_ended": "and then nothing for 3 s, is still",
}


@pytest.mark.parametrize("name", GIVES_UP)
async def test_server_that_never_gives_up_a_stuck_reader_is_told_so(name: str) -> None:
    argv = [*SERVE, "--stage", "backpressure", "--without", "backpressure"]
    async with commanded(argv, "backpressure", patience=3.0) as world:
        verdict = await judge(world, [("backpressure", PROBES[name])])
    assert GIVES_UP[name] in broken(verdict)[name]


# A server that does one thing wrong, for each check that no mistake of the lab breaks.
WRONG = [sys.executable, str(Path(__file__).parents[1] / "support" / "wrong_server.py")]
WRONGS = {
    "fragments_are_one_message": ("each-fragment", "fragments were closed with 1011"),
    "hello_comes_first": ("no-hello", "the first message is 'welcome', not 'hello'"),
    "close_is_answered": ("no-goodbye", "without a close frame"),
    "tokens_are_never_printed": ("prints", "was printed"),
    "same_key_is_published_once": ("ignores-keys", "was given two numbers"),
    "cursor_of_another_room_is_no_licence": (
        *("trusts-cursors", "recovered by seq 5 of another room"),
    ),
    "what_is_no_text_ends_its_connection": ("takes-binary", "in vain for a close"),
    "rooms_of_a_token_are_all": ("ignores-claims", "answered joined, not the error"),
    "what_cannot_be_served_is_answered": (
        *("own-words", "was answered no_such_type, not the error unknown_type"),
    ),
    "each_room_counts_for_itself": ("counts-for-all", "the numbers [1, 3, 5], not"),
    "who_reads_slowly_stays": ("wants-pongs", "answers each ping that it reads, was"),
}


@pytest.mark.parametrize("name", WRONGS)
async def test_wrong_server_breaks_the_check_and_the_right_one_keeps_it(
    name: str,
) -> None:
    wrong, words = WRONGS[name]
    for argument, outcome in ((wrong, "broken"), ("nothing", "kept")):
        async with commanded([*WRONG, argument], "rooms", patience=3.0) as world:
            verdict = await judge(world, [("echo", PROBES[name])])
        (finding,) = verdict.findings
        assert finding.outcome == outcome, finding.seen
        assert outcome == "kept" or words in finding.seen


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("claims-at-join", "to publish a room that the token does not name"),
        ("forbids-and-sends", "heard a client that may not speak there"),
    ],
)
async def test_server_that_looks_at_claims_too_little_is_told_where(
    wrong: str, words: str
) -> None:
    check = PROBES["rooms_of_a_token_are_all"]
    async with commanded([*WRONG, wrong], "rooms", patience=3.0) as world:
        verdict = await judge(world, [("rooms", check)])
    assert words in broken(verdict)[check.__name__]


HEARS, SERVES = "everyone_hears_it_once", "what_cannot_be_served_is_answered"


@pytest.mark.parametrize(
    ("wrong", "name", "words"),
    [
        ("any-name", SERVES, '"room":"no such name"} was answered joined, not the'),
        ("any-publish", SERVES, '"room":"lobby"} was answered ack, not the error'),
        ("objects-only", SERVES, "server printed: TypeError: an object was expected"),
        ("strings", HEARS, "heard payload '0' where 0 was published"),
        ("nameless", HEARS, "ann published, and from says 'somebody'"),
        ("acks-all", HEARS, "a publish without a ref was answered with an ack"),
        ("no-ping", HEARS, "a ping was answered unknown_type, not pong"),
        ("acks-twice", "who_left_hears_nothing", "a second ack for one publish"),
        ("one-name", "who_left_hears_nothing", "answered with room 'lobby'"),
        ("no-interval", "hello_comes_first", "says nothing of the heartbeat"),
    ],
)
async def test_small_fault_is_named(wrong: str, name: str, words: str) -> None:
    check = ("rooms", PROBES[name])
    async with commanded([*WRONG, wrong], "rooms", patience=3.0) as world:
        assert words in broken(await judge(world, [check]))[name]
    async with commanded([*WRONG, "nothing"], "rooms", patience=3.0) as world:
        assert broken(await judge(world, [check])) == {}


async def test_numbering_that_begins_again_needs_a_new_epoch() -> None:
    check = PROBES["each_room_counts_for_itself"]
    async with commanded([*WRONG, "counts-again"], "rooms", patience=3.0) as world:
        verdict = await judge(world, [("rooms", check)])
    assert "again after 3, in the same epoch" in broken(verdict)[check.__name__]


async def test_publisher_that_is_ended_is_not_taken_for_the_slow_reader() -> None:
    check = PROBES["who_reads_slowly_stays"]
    async with commanded([*WRONG, "ends-publishers"], "rooms", patience=3.0) as world:
        verdict = await judge(world, [("heartbeat", check)])
    said = broken(verdict)[check.__name__]
    assert said.startswith("closed with 1006 before an ack, while a member reads")


FAULTS = {
    "frozen_redis_loses_nothing": "in vain for acks, and the messages, after Redis was",
    "emptied_redis_is_told": "in vain for what was acknowledged after Redis came back",
}


@pytest.mark.parametrize("name", FAULTS)
async def test_replica_that_does_not_subscribe_again_breaks_every_fault(
    name: str,
) -> None:
    argv = [*SERVE, "--stage", "broker", "--mistake", "no-resubscribe"]
    async with commanded(argv, "broker", patience=4.0) as world:
        verdict = await judge(world, [("broker", PROBES[name])])
    assert FAULTS[name] in broken(verdict)[name]


async def test_replica_that_does_not_wait_for_its_subscription_loses_messages() -> None:
    check = PROBES["who_joins_hears_all_that_follows"]
    argv = [sys.executable, hasty.__file__]
    async with commanded(argv, "broker", patience=4.0) as world:
        verdict = await judge(world, [("broker", check)])
    assert "joined at seq" in broken(verdict)[check.__name__]


async def test_cluster_that_has_a_leader_breaks_when_it_crashes(tmp_path: Path) -> None:
    check = PROBES["killed_replica_costs_the_others_nothing"]
    argv = [sys.executable, leader.__file__, str(tmp_path / "port")]
    async with commanded(argv, "broker", patience=4.0) as world:
        verdict = await judge(world, [("broker", check)])
    assert "before messages through a replica" in broken(verdict)[check.__name__]


@pytest.mark.parametrize("stage", ["echo", "rooms"])
async def test_one_command_is_green_at_every_stage_as_it_is_told_which(
    stage: str,
) -> None:
    # The program is started with the stage that it was told, and with no other word.
    argv = ["sh", "-c", f"exec {' '.join(SERVE[:-2])} --port $PORT --stage $LAB_STAGE"]
    async with commanded(argv, stage, patience=5.0) as world:
        check = PROBES["every_value_comes_back"]
        verdict = await judge(world, [("echo", check)])
    assert broken(verdict) == {}


async def test_typed_server_is_told_of_the_stage_at_which_every_value_is_echoed() -> (
    None
):
    async with commanded([*SERVE, "--stage", "rooms"], "echo", patience=3.0) as world:
        check = PROBES["every_value_comes_back"]
        verdict = await judge(world, [("echo", check)])
    assert "LAB_STAGE" in broken(verdict)[check.__name__]


async def test_silent_loss_is_told_by_its_fence() -> None:
    argv = [*SERVE, "--stage", "backpressure", "--mistake", "dropped-in-silence"]
    async with commanded(argv, "backpressure", patience=6.0) as world:
        check = PROBES["no_loss_is_silent"]
        verdict = await judge(world, [("backpressure", check)])
    assert "no gap was told before the pong" in broken(verdict)[check.__name__]


# The command line


def labserver(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run ``labserver`` as a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LAB_")}
    done = subprocess.run(
        [sys.executable, "-m", "labserver", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        env={**clean, **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def not_websocket() -> Iterator[int]:
    """Return the port of a server that speaks HTTP, and no WebSocket."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().split()[5])
        process.kill()


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


DIES = """
import os, sys
from labserver.__main__ import main
from labserver.server.server import LabServer
met, right = [], LabServer.open
def wrong(self, connection):
    met.append(connection)
    if len(met) > 3:
        print("out of luck", flush=True)
        os._exit(3)
    right(self, connection)
LabServer.open = wrong
sys.argv = ["labserver", "serve", "--stage", "auth", "--port", os.environ["PORT"]]
main()
"""
FLOODS = """
import sys, time
while True:
    sys.stdout.write("x" * 100_000 + chr(10))
    time.sleep(0.1)
"""
NODE = """
  throw new ERR_MODULE_NOT_FOUND(packageName, fileURLToPath(base), null);
        ^

Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'ws' imported from /server.mjs
    at packageResolve (node:internal/modules/esm/resolve:873:9) {
  code: 'ERR_MODULE_NOT_FOUND'
}

Node.js v20.20.2
"""
NOTHING_TO_JUDGE = {
    "no command": (["no-such-command"], "there is no command 'no-such-command'"),
    "no program": ([str(Path(__file__))], "cannot be started"),
    "never listens": (["sleep", "1000"], "did not listen on port"),
    "ends": ([sys.executable, "-c", "print('oh')"], "status 0; its last words: oh"),
    "dies half-way": ([sys.executable, "-c", DIES], "status 3; its last words: out of"),
    "ends as Node does": (
        [sys.executable, "-c", f"print({NODE!r})"],
        "status 0; its last words: Error [ERR_MODULE_NOT_FOUND]: Cannot find package",
    ),
    "floods": ([sys.executable, "-c", FLOODS], "prints half a megabyte a second"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("argv", "words"), NOTHING_TO_JUDGE.values(), ids=NOTHING_TO_JUDGE
)
def test_what_cannot_be_judged_is_said_in_a_sentence(
    argv: list[str], words: str
) -> None:
    only = ("--stage", "auth", "--start-timeout", "4", "--patience", "3")
    status, _, err = labserver("judge", *only, "--", *argv)
    assert (status, err.count("\n")) == (2, 1)
    assert words in err


def test_url_where_nothing_listens_is_said_in_a_sentence(command: Command) -> None:
    url = f"ws://127.0.0.1:{closed_port()}"
    status, _, err = command("judge", "--stage", "echo", url)
    assert (status, err.count("\n")) == (2, 1)
    assert f"nothing listens at {url}" in err


def test_url_that_is_no_websocket_server_is_said_in_a_sentence(
    not_websocket: int, command: Command
) -> None:
    url = f"ws://127.0.0.1:{not_websocket}"
    status, _, err = command("judge", "--stage", "echo", url)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{url} is no WebSocket server" in err


async def test_url_with_another_secret_is_said_in_a_sentence() -> None:
    async with running_replica("rooms") as server:
        arguments = ("judge", "--stage", "rooms", server.url)
        secret = {"LAB_SECRET": "another secret of thirty-two bytes!"}
        status, _, err = await asyncio.to_thread(labserver, *arguments, **secret)
    assert (status, err.count("\n")) == (2, 1)
    assert "is it the same LAB_SECRET?" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "nonsense", "--", "true"], "no stage 'nonsense'"),
        (["--only", "nonsense", "--", "true"], "no check 'nonsense'"),
        (["--stage", "auth", "ws://127.0.0.1:1"], "LAB_SECRET is not set"),
        (["--stage", "echo", "ws://1.1.1.1:1"], "load goes to this machine only"),
    ],
)
def test_what_cannot_be_asked_for_is_said(
    arguments: list[str], words: str, command: Command
) -> None:
    status, _, err = command("judge", *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert words in err


def test_verdict_names_promise_and_evidence_and_ends_with_1(tmp_path: Path) -> None:
    argv = [*SERVE, "--stage", "echo", "--mistake", "double-numbers"]
    junit, html = tmp_path / "junit.xml", tmp_path / "verdict.html"
    files = ("--junit", str(junit), "--html", str(html))
    options = ("--stage", "echo", "--patience", "2")
    status, out, err = labserver("judge", *options, *files, "--", *argv)
    assert (status, err) == (1, "")
    assert "Promise 1 broken (Every JSON value comes back" in out
    assert "0 came back as 0.0" in out
    assert "ann sent 0" in out
    again = "labserver judge --stage echo --only every-value-comes-back --"
    assert f"Again: {again} {sys.executable}" in out
    assert "--patience" not in out  # nothing was waited for in vain
    assert "Read on: notebooks/01_echo.ipynb" in out
    (picture,) = re.findall(r"<svg.*</svg>", html.read_text())
    assert "0 came back as 0.0" in html.read_text()
    ann = [
        each for each in ElementTree.fromstring(picture).iter() if each.text == "ann"
    ]
    assert len(ann) == 1
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("name"), suite.get("failures")) == ("echo", "1")
    assert [case.get("name") for case in suite] == [
        check.__name__ for check in PROMISES["echo"]
    ]


def test_verdict_as_json_is_all_that_is_printed() -> None:
    options = ("--stage", "echo", "--only", "close-is-answered", "--json")
    status, out, _ = labserver("judge", *options, "--", *SERVE, "--stage", "echo")
    assert status == 0
    (promise,) = json.loads(out)["promises"]
    assert (promise["number"], promise["outcome"]) == (1, "kept")
    (check,) = promise["checks"]
    assert (check["check"], check["outcome"]) == ("close_is_answered", "kept")


async def test_server_at_a_url_is_judged_with_its_secret() -> None:
    async with running_replica("rooms") as server:
        arguments = ("judge", "--stage", "rooms", server.url)
        secret = {"LAB_SECRET": server.secret}
        status, out, err = await asyncio.to_thread(labserver, *arguments, **secret)
    assert (status, err) == (0, "")
    assert "Promise 3 kept" in out


# Processes

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print("child", child.pid, flush=True)
sys.argv = ["labserver", "serve", "--stage", "echo", "--port", os.environ["PORT"]]
from labserver.__main__ import main
main()
"""


async def test_whole_process_group_is_ended() -> None:
    argv = [sys.executable, "-c", PARENT]
    with pytest.raises(ZeroDivisionError):
        async with commanded(argv, "echo") as world:
            (program,) = world.programs.values()
            first, *_ = program.output.tail.decode().splitlines()
            child = int(first.split()[1])
            assert alive(child)
            raise ZeroDivisionError
    await eventually(lambda: not alive(child))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_judge_that_is_told_to_stop_leaves_nothing_running(
    how: signal.Signals, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    waits = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid()))"
    argv = [sys.executable, "-c", f"{waits}; time.sleep(1000)"]
    judging = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver", "judge", "--stage", "echo", "--", *argv),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    await eventually(lambda: note.exists() and bool(note.read_text()))
    judging.send_signal(how)
    async with asyncio.timeout(10):
        said, _ = await judging.communicate()
    assert judging.returncode == 128 + how
    assert b"Traceback" not in said
    assert said.count(b"stopped: all that was started is ended") == 1
    await eventually(lambda: not alive(int(note.read_text())))


async def test_output_is_read_and_bounded() -> None:
    talks = "import sys; sys.stdout.write('x' * 1_000_000 + 'the end')"
    program = Program([sys.executable, "-c", talks], {})
    with pytest.raises(CannotJudge, match="ended by itself with status 0"):
        await program.start(10)
    await program.stop()
    assert len(program.output.tail) <= 8192
    assert program.output.tail.endswith(b"the end")


async def test_process_serves_the_next_check_too() -> None:
    async with commanded([*SERVE, "--stage", "echo"], "echo") as world:
        assert isinstance(world, CommandWorld)
        async with world.running() as one:
            pass
        async with world.running() as two:
            assert one == two
            assert world.memory(two) > 1_000_000
        async with world.running(heartbeat_interval=0.5) as three:
            assert three != two


# Servers to begin with


@pytest.mark.parametrize("language", STARTERS)
async def test_starter_keeps_the_first_promise(language: str, tmp_path: Path) -> None:
    status, program, _ = await asyncio.to_thread(labserver, "starter", language)
    assert status == 0
    path = tmp_path / STARTERS[language]
    path.write_text(program)
    argv = [sys.executable, str(path)]
    if language == "stdlib":
        argv[1:1] = ["-S"]  # without anything that was installed
    if language == "node":
        try:
            modules = await asyncio.to_thread(node_modules)
        except Missing as exc:
            pytest.skip(str(exc))
        (tmp_path / "node_modules").symlink_to(modules / "node_modules")
        argv[0] = "node"
    verdict = await verdict_on(argv, "echo", patience=5.0)
    assert (broken(verdict), verdict.status) == ({}, 0)


def test_language_without_a_starter_is_said(command: Command) -> None:
    status, _, err = command("starter", "cobol")
    assert (status, err.count("\n")) == (2, 1)
    assert "no starter 'cobol': python, node, stdlib" in err
