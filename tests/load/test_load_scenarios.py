"""The load scenarios for replicas, idle crowds, storms and churn, and their parser."""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from labserver.processes.cluster import running_replica
from tests.load.test_loadtests import (
    SECRET,
    figures,
    locust,
    reached,
    written,
)

pytestmark = pytest.mark.long

_frames = importlib.import_module("labserver.load.frames")
_owned = importlib.import_module("labserver.load.run.owned")

# The fast parser of frames

bodies = st.binary(max_size=200) | st.integers(60_000, 70_000).map(bytes)
whole = st.tuples(
    st.sampled_from([Opcode.TEXT, Opcode.BINARY]), bodies, st.just(1)
) | st.tuples(
    st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125), st.just(1)
)
in_fragments = st.tuples(st.just(Opcode.TEXT), bodies, st.integers(2, 3))


def client() -> ClientProtocol:
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), max_size=2**20)
    protocol.state = OPEN
    protocol.parser = protocol.parse()
    next(protocol.parser)
    return protocol


def stream(messages: list[tuple[Opcode, bytes, int]]) -> bytes:
    """Return these messages as a server's frames."""
    data = b""
    for opcode, body, parts in messages:
        size = len(body) // parts + 1
        pieces = [body[at : at + size] for at in range(0, len(body) or 1, size)]
        for number, piece in enumerate(pieces):
            kind = Opcode.CONT if number else opcode
            fin = number == len(pieces) - 1
            data += Frame(kind, piece, fin).serialize(mask=False)
    return data


@given(st.lists(whole | in_fragments, max_size=6), st.lists(st.integers(0, 2000)))
def test_messages_are_those_of_the_protocol_however_the_stream_is_cut(
    messages: list[tuple[Opcode, bytes, int]], sizes: list[int]
) -> None:
    data, found, controls = stream(messages), [], []
    frames = _frames.Frames(client())
    frames.control = controls.append
    for size in [*sizes, len(data)]:
        found += frames.cut(data[:size])
        data = data[size:]
    assert found == [body for opcode, body, _ in messages if opcode in DATA_OPCODES]
    told = [(each.opcode, bytes(each.data)) for each in controls]
    assert told == [(op, body) for op, body, _ in messages if op not in DATA_OPCODES]
    assert frames.protocol.state is OPEN
    answers = b"".join(frames.protocol.data_to_send())
    assert bool(answers) == any(opcode is Opcode.PING for opcode, _, _ in messages)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x85abcdefghi", 1002),  # masked
        (b"\x81\x7f" + (2**40).to_bytes(8, "big"), 1009),  # a terabyte
        (b"\x80\x01a", 1002),  # a continuation without a beginning
        (b"\x01\x01a\x81\x01b", 1002),  # begins before the one before has ended
        (b"\xc1\x01a", 1002),  # an extension that was not negotiated
    ],
)
def test_frame_that_no_server_may_send_ends_the_connection(
    data: bytes, code: int
) -> None:
    frames = _frames.Frames(client())
    assert frames.cut(data) == []
    assert frames.protocol.state is not OPEN
    assert frames.protocol.close_sent.code == code


# Whole runs


@pytest.mark.timeout(90)
async def test_replica_is_killed_half_way_and_nobody_misses_anything(
    tmp_path: Path,
) -> None:
    async with _owned.owned(2, secret=SECRET) as servers:
        code, out, err = await locust(
            *("--host", servers.urls[0], "--replicas", ",".join(servers.urls)),
            *("--scenario", "replicas", "--fault", "kill-replica"),
            *("-u", "5", "-r", "5", "-t", "4s", "--lag-limit", "10000"),
            *("--results", str(tmp_path), "--no-pictures"),
            **servers.environment,
        )
        assert servers.replicas[1].process.returncode is not None
    assert code == 0, out + err
    found = figures(tmp_path)
    tally = found["completeness"]["replicas/members"]
    assert tally["delivered"] == tally["expected"] > 0
    assert found["figures"]["replicas"]["came back"]["value"] == 2
    assert found["figures"]["replicas"]["outage"]["count"] == 2
    folder = written(tmp_path)
    assert folder is not None
    (fault,) = json.loads((folder / "run.json").read_text())["faults"]
    assert fault["text"] == "replica 2 killed"
    assert fault["at"] > 1.5


@pytest.mark.timeout(90)
async def test_paused_redis_delays_publishes_and_loses_none(tmp_path: Path) -> None:
    async with _owned.owned(1, secret=SECRET) as servers:
        code, out, err = await locust(
            *("--host", servers.urls[0], "--fault", "pause-redis"),
            *("--scenario", "replicas", "-u", "4", "-r", "4", "-t", "4s"),
            *("--results", str(tmp_path), "--lag-limit", "10000", "--no-pictures"),
            **servers.environment,
        )
    assert code == 0, out + err
    found = figures(tmp_path)
    tally = found["completeness"]["replicas/members"]
    assert tally["delivered"] == tally["expected"] == 4 * found["published"]["replicas"]
    # Messages waited as long as Redis was frozen; latency counts from their due time.
    assert found["latency_from_due_us"]["replicas/same replica"]["max"] > 1_500_000


@pytest.mark.timeout(90)
async def test_dead_peer_that_is_there_at_the_end_fails_the_run(tmp_path: Path) -> None:
    # The mistake is two seconds too slow, and the run ends before that.
    mistake = ("--mistake", "close-instead-of-abort", "--heartbeat-interval", "0.2")
    async with running_replica("resume", *mistake, secret=SECRET) as replica:
        code, out, err = await locust(
            *("--host", replica.url, "--scenario", "idle"),
            *("-u", "4", "-r", "4", "-t", "3s"),
            *("--results", str(tmp_path), "--lag-limit", "10000", "--no-pictures"),
            LAB_SECRET=SECRET,
        )
    idle = figures(tmp_path)["figures"]["idle"]
    assert idle["kept too long"]["value"] > 0, out + err
    assert code == (0 if idle["server stalls"]["value"] else 1)
    assert "kept beyond two intervals" in out


@pytest.mark.timeout(90)
async def test_dead_peer_is_kept_longer_by_a_server_that_stood_still(
    tmp_path: Path,
) -> None:
    """A stall delays the decision by its own length at most; that is no failure."""
    async with running_replica(
        "resume", "--heartbeat-interval", "2", secret=SECRET
    ) as replica:
        # The first message is published after all members have joined.
        there = reached(replica.url, messages_published_total=1)
        gone = reached(replica.url, peers_dead_total=1)
        stopped = False

        async def over() -> bool:
            nonlocal stopped
            if not stopped and await there():
                stopped = True
                replica.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(6)  # a stall of three intervals
                replica.process.send_signal(signal.SIGCONT)
            return stopped and await gone()

        code, out, err = await locust(
            *("--host", replica.url, "--scenario", "idle", "-u", "4", "-r", "4"),
            *("--results", str(tmp_path), "--lag-limit", "10000", "--no-pictures"),
            until=over,
            LAB_SECRET=SECRET,
        )
    assert code == 0, out + err
    idle = figures(tmp_path)["figures"]["idle"]
    assert idle["kept too long"]["value"] == idle["noticed"]["value"] == 1
    assert idle["server stalls"]["value"] > 0
    assert "but servers stalled " in out


@pytest.mark.timeout(90)
async def test_storm_idle_crowd_and_churn_add_up_over_processes(tmp_path: Path) -> None:
    """One run for three scenarios: Locust takes longer to start than they take."""
    async with running_replica(
        "resume", "--heartbeat-interval", "1.5", secret=SECRET
    ) as replica:
        code, out, err = await locust(
            *("--host", replica.url, "-u", "24", "-t", "6s", "--steps", "12:1"),
            *("--scenario", "reconnect_storm,idle,churn", "--processes", "2"),
            *("--results", str(tmp_path), "--lag-limit", "10000", "--no-pictures"),
            LAB_SECRET=SECRET,
        )
    assert code == 0, out + err
    found = figures(tmp_path)
    assert set(found["figures"]) == {"reconnect_storm", "idle", "churn"}
    storm, idle = found["figures"]["reconnect_storm"], found["figures"]["idle"]
    churn = found["figures"]["churn"]
    for label in ("with jitter", "without jitter"):
        dropped = storm[f"dropped, {label}"]["value"]
        assert dropped > 0
        assert storm[f"back, {label}"]["value"] == dropped
        assert storm[f"missed, {label}"]["value"] == 0
        assert storm[f"back after, {label}"]["count"] == dropped
        points = storm[f"accepts, {label}"]["points"]
        assert sum(count for _, count in points) == dropped
    assert idle["noticed"]["value"] == idle["noticed after"]["count"] > 0
    assert idle["pings answered"]["value"] > 0
    assert len(idle["memory, 1"]["points"]) > 1
    assert churn["cycles"]["value"] == churn["leave"]["count"] > 0
    assert churn["refused, expired"]["value"] > 0
    assert found["generator"]["processes"] == 2
    folder = written(tmp_path)
    assert folder is not None
    parts = [json.loads(each.read_text()) for each in folder.glob("part-*.json")]
    assert len(parts) == 2
    assert sum(sum(part["users"].values()) for part in parts) == 24


@pytest.mark.timeout(60)
async def test_stranger_who_is_let_in_fails_the_run(tmp_path: Path) -> None:
    async with running_replica("rooms", "--without", "auth", secret=SECRET) as replica:
        code, out, _ = await locust(
            *("--host", replica.url, "--scenario", "churn", "-u", "2", "-r", "2"),
            *("-t", "2s", "--results", str(tmp_path), "--no-pictures"),
            LAB_SECRET=SECRET,
        )
    assert code == 1
    assert "token was accepted" in out


@pytest.mark.timeout(60)
async def test_fault_without_servers_of_its_own_and_unknown_scenario_are_refused(
    tmp_path: Path,
) -> None:
    common = ("--host", "ws://127.0.0.1:9", "--results", str(tmp_path))
    asked: list[tuple[str, ...]] = [
        ("--fault", "pause-redis"),
        ("--scenario", "fanout,nonsense"),
    ]
    answers = await asyncio.gather(
        *(locust(*common, *each, LAB_TOKEN="t") for each in asked)
    )
    said: Any = ["python -m loadtests", "there is no scenario 'nonsense'"]
    for (code, _, err), sentence in zip(answers, said, strict=True):
        assert code == 2
        assert sentence in err.splitlines()[-1]
