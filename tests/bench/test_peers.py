"""The comparison with other servers: the receiver counts right, each server joins."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import urllib.request
from dataclasses import replace

import pytest

from bench import cache as _cache
from bench.__main__ import main, options
from bench.cache import Missing
from bench.contest import Contest, Point, Run, competing, points
from bench.ledger import ABLATIONS, KINDS, STEPS, Ledger, table
from bench.receiver import Figures, Load, RunFailed, payloads, receive
from bench.report import tables, write
from bench.servers import CONTRACT, RIVALS, Server, lab, running

pytestmark = pytest.mark.long

needs_receiver = [
    pytest.mark.timeout(150),  # the first run installs Node's packages
    pytest.mark.skipif(sys.platform != "linux", reason="the receiver needs Linux"),
    pytest.mark.needs("C compiler"),
]
COMMAND = lab("--stage", "resume", "--without", "broker")
FIGURES = Figures(
    subscribers=2,
    deflate=False,
    opening_seconds=0.5,
    opening_cpu=0.25,
    memory_before=1000,
    memory_connected=3000,
    memory_end=4000,
    seconds=2.0,
    deliveries=100,
    wire_bytes=15_000,
    server_cpu=1.0,
    server_wait=0.0,
    receiver_cpu=0.5,
    published=60,
    all_deliveries=120,
    latency_count=100,
    latency_p50=10,
    latency_p99=20,
    latency_max=30,
)


def needs(mark: list[pytest.MarkDecorator]):
    """Return a decorator that puts several marks on a test."""

    def put(test):
        for each in mark:
            test = each(test)
        return test

    return put


async def metric(server: Server, name: str) -> int:
    def page() -> str:
        url = f"http://127.0.0.1:{server.port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.read().decode()

    found = re.search(rf"^{name} (\S+)$", await asyncio.to_thread(page), re.MULTILINE)
    assert found
    return int(float(found[1]))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# The receiver


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@needs(needs_receiver)
async def test_receiver_counts_exactly_what_the_server_delivered(deflate) -> None:
    load = Load(7, in_flight=3, messages=200, seconds=0, warm_up=0, deflate=deflate)
    async with running(COMMAND, None) as server:
        figures = await receive([server], CONTRACT, load, None)
        delivered = await metric(server, "labserver_deliveries_total")
        published = await metric(server, "labserver_messages_published_total")
    # One message to one member was published to learn the size of a frame.
    probe = 0 if deflate else 1
    assert figures.all_deliveries == delivered - probe == 7 * 200
    assert figures.published == published - probe == 200
    assert figures.deflate is deflate


@needs(needs_receiver)
async def test_open_loop_measures_every_delivery_that_was_due() -> None:
    load = Load(5, rate=200, seconds=0.5, warm_up=0.1)
    async with running(COMMAND, None) as server:
        figures = await receive([server], CONTRACT, load, None)
    assert figures.arrived == 1
    assert 0 < figures.latency_p50 <= figures.latency_p99 <= figures.latency_max
    assert figures.latency_count == pytest.approx(5 * 200 * 0.5, rel=0.2)
    assert figures.server_cpu > 0
    assert figures.memory_end > 10_000_000


@needs(needs_receiver)
async def test_refused_handshake_is_told() -> None:
    async with running(COMMAND, None) as server:
        stranger = replace(server, path="/?token=wrong")
        with pytest.raises(RunFailed, match="401"):
            await receive([stranger], CONTRACT, Load(1), None)


@needs(needs_receiver)
async def test_idle_connections_are_measured_without_joining() -> None:
    load = Load(20, seconds=0, warm_up=0, ahead=5)
    async with running(COMMAND, None) as server:
        figures = await receive([server], CONTRACT, load, None)
        assert await metric(server, "labserver_handshakes_accepted_total") == 25
    assert figures.handshakes > 0
    assert figures.handshake_cost > 0
    assert figures.published == 0


def test_receiver_that_used_its_whole_core_is_marked() -> None:
    assert not FIGURES.limited
    assert replace(FIGURES, receiver_cpu=1.9).limited


def test_compressed_texts_are_the_same_in_every_run() -> None:
    load = Load(1, deflate=True)
    texts = [json.dumps(each) for each in payloads(load, 0)]
    assert texts == [json.dumps(each) for each in payloads(load, 0)]
    assert len(set(texts)) == len(texts)
    # With the fields that the contract puts around the payload.
    assert all(330 <= len(text) + 30 <= 390 for text in texts)


def test_missing_compiler_is_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_cache.shutil, "which", lambda name: None)
    with pytest.raises(Missing, match="C compiler"):
        _cache.compiled("receiver.c")
    with pytest.raises(Missing, match="node is not installed"):
        _cache.node_modules()


# Rivals


@pytest.mark.parametrize("name", RIVALS)
@needs(needs_receiver)
async def test_rival_joins_publishes_and_delivers_to_all(name) -> None:
    rival = RIVALS[name]
    if why := rival.missing():
        pytest.skip(why)
    async with running(rival.command(False), None) as server:
        counted = Load(2, in_flight=2, messages=20, seconds=0, warm_up=0)
        figures = await receive([server], rival.dialect, counted, None)
        assert figures.all_deliveries == 2 * 20
        timed = Load(2, in_flight=2, seconds=0.2, warm_up=0.05)
        figures = await receive([server], rival.dialect, timed, None)
    assert figures.rate > 0
    assert figures.frame == pytest.approx(150, abs=6)  # a seq has more digits later
    assert not figures.deflate


@pytest.mark.parametrize("name", [each for each in RIVALS if RIVALS[each].deflate])
@needs(needs_receiver)
async def test_rival_compresses_when_asked(name) -> None:
    rival = RIVALS[name]
    if why := rival.missing():
        pytest.skip(why)
    load = Load(2, in_flight=2, seconds=1.0, warm_up=0.05, deflate=True)
    async with running(rival.command(True), None) as server:
        figures = await receive([server], rival.dialect, load, None)
    assert figures.deflate
    assert 0 < figures.frame < 300


@pytest.mark.parametrize("name", ["lab", "node"])
@needs(needs_receiver)
async def test_two_replicas_share_a_room(name) -> None:
    if why := RIVALS[name].missing():
        pytest.skip(why)
    load = Load(4, in_flight=2, messages=20, seconds=0, warm_up=0)
    async with competing(name, Point("replicas", load), None) as (servers, dialect):
        assert len({server.port for server in servers}) == 2
        figures = await receive(servers, dialect, load, None)
    assert figures.all_deliveries == 4 * 20


async def test_server_ends_with_the_block_also_on_error() -> None:
    with pytest.raises(ZeroDivisionError):
        async with running(COMMAND, None) as server:
            assert alive(server.pid)
            raise ZeroDivisionError
    assert not alive(server.pid)


async def test_server_that_does_not_start_says_why() -> None:
    with pytest.raises(Missing, match="no stage 'nonsense'"):
        async with running(lab("--stage", "nonsense"), None):
            pass


# The contest


def contest() -> Contest:
    """Return the result of a made-up contest, in which the lab is twice as fast."""
    point = Point("fanout", Load(1000, in_flight=1))
    done = Contest(["lab", "node", "picows"], [point], rounds=2)
    for number in range(2):
        done.runs.append(Run("lab", point, number, replace(FIGURES, deliveries=200)))
        done.runs.append(Run("node", point, number, FIGURES))
        done.runs.append(Run("picows", point, number, failure="it went away"))
    return done


def test_every_round_has_every_run_and_begins_with_another() -> None:
    both = Contest(["lab", "node"], points(["fanout"], [10], [1, 4], 1.0), rounds=2)
    turns = [(number, each.load.in_flight, name) for number, each, name in both.turns()]
    assert turns == [
        (0, 1, "lab"),
        (0, 1, "node"),
        (0, 4, "lab"),
        (0, 4, "node"),
        (1, 1, "node"),
        (1, 1, "lab"),
        (1, 4, "node"),
        (1, 4, "lab"),
    ]


def test_result_is_json_with_every_run(tmp_path) -> None:
    write(contest(), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["runs"]) == 6
    first = found["runs"][0]
    assert first["rival"] == "lab"
    assert first["load"]["in_flight"] == 1
    assert first["deliveries_per_second"] == 100
    assert first["cpu_us_per_delivery"] == 5000
    assert first["receiver_was_limit"] is False
    assert found["runs"][2]["failure"] == "it went away"


def test_table_has_median_spread_and_ratio() -> None:
    text = tables(contest())
    assert re.search(r"\| Node ws \(article\) +\| +50 \| +50 \| +50 \| +2.00x", text)
    assert "picows, 1,000 subscribers, 1 in flight: it went away" in text
    assert re.search(r"1 in flight.* 2.00x .* aim \|", text)


def test_picture_is_drawn(tmp_path) -> None:
    picture = pytest.importorskip("bench.picture")
    done = contest()
    done.points = [*done.points, Point("fanout", Load(10, in_flight=1))]
    names = [path.name for path in picture.draw(done, tmp_path)]
    assert names == ["peers.png", "subscribers.png"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)


def test_ledger_has_a_row_for_each_stage_and_each_part_left_out(tmp_path) -> None:
    waterfall = pytest.importorskip("bench.waterfall")
    ledger = Ledger(100, 1, 1.0, 1)
    for variant in [*STEPS, *ABLATIONS]:
        for kind in KINDS:
            ledger.found[variant.title, kind] = [FIGURES]
    text = table(ledger)
    for variant in [*STEPS, *ABLATIONS]:
        assert f"| {variant.title} " in text
    waterfall.draw(ledger, tmp_path / "ledger.png")
    assert (tmp_path / "ledger.png").stat().st_size > 10_000


def test_unknown_rival_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        options(["--rivals", "lab,nonsense"])
    assert ended.value.code == 2
    assert "'nonsense' is none of lab, node" in capsys.readouterr().err


@needs(needs_receiver)
def test_command_writes_results_and_skips_what_is_missing(
    monkeypatch, tmp_path, capsys
) -> None:
    def absent(*_: str) -> list[str]:
        raise Missing("node is not installed")

    monkeypatch.setitem(RIVALS, "node", replace(RIVALS["node"], command=absent))
    words = ["peers", "--rivals", "node,floor", "--sections", "fanout", "--rounds", "1"]
    words += ["--subscribers", "5", "--in-flight", "2", "--seconds", "0.2"]
    monkeypatch.setattr(sys, "argv", [*words, "--results", str(tmp_path)])
    assert main() == 0
    output = capsys.readouterr()
    assert "skipped Node ws (article): node is not installed" in output.err
    assert "C loop of send()" in output.out
    (folder,) = tmp_path.iterdir()
    found = {path.name for path in folder.iterdir()}
    assert found == {"results.json", "table.md", "peers.png"}
