"""The metrics page: Prometheus reads what the server counted."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from labserver.contract.messages import Pong
from labserver.server import lag as lag_module
from labserver.server.lag import LagProbe
from labserver.server.metrics import (
    COUNTERS,
    HISTOGRAMS,
    LABELLED,
    Gauge,
    Histogram,
    Metrics,
    render,
    resident_memory,
)
from tests.conftest import Running, eventually, peer

ROOT = Path(__file__).parents[2]


def samples(page: bytes | str) -> dict[str, float]:
    """Return the value of every sample of a page, by name and labels."""
    text = page.decode() if isinstance(page, bytes) else page
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(sample.labels.values())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = (
                sample.value
            )
    return found


def test_every_counter_is_on_the_page() -> None:
    metrics = Metrics()
    for number, attribute in enumerate(COUNTERS, start=1):
        setattr(metrics, attribute, number)
    page = samples(render(metrics, []))
    for number, (name, _) in enumerate(COUNTERS.values(), start=1):
        assert page[f"{name}_total"] == number


def test_no_count_is_kept_and_not_shown() -> None:
    assert {*Metrics.__slots__} == {*COUNTERS, *LABELLED, *HISTOGRAMS}


def test_closes_and_refusals_have_a_label() -> None:
    metrics = Metrics()
    slow, away = (4409, "server"), (1001, "client")
    metrics.closes.update([slow, away, slow])
    metrics.refused[401] += 5
    page = samples(render(metrics, []))
    assert page["labserver_closes_total{server,4409}"] == 2
    assert page["labserver_closes_total{client,1001}"] == 1
    assert page["labserver_handshakes_refused_total{401}"] == 5


def test_gauges_are_what_is_given() -> None:
    gauges = [Gauge("a_seconds", "An a.", 1.5), Gauge("b", "A b.", math.nan)]
    page = samples(render(Metrics(), gauges))
    assert page["a_seconds"] == 1.5
    assert math.isnan(page["b"])


def test_known_labels_are_on_the_page_from_the_start() -> None:
    page = samples(render(Metrics(), []))
    assert page["labserver_closes_total{server,4409}"] == 0
    assert page["labserver_closes_total{network,1006}"] == 0
    assert page["labserver_handshakes_refused_total{429}"] == 0


def test_bounds_of_a_histogram_are_inclusive() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 3, 4, 4.1, 1000):
        histogram.observe(value)
    assert histogram.buckets() == [("1", 2), ("2", 4), ("4", 6), ("+Inf", 8)]
    assert histogram.sum == pytest.approx(1015.6)


@pytest.mark.parametrize("attribute", HISTOGRAMS)
def test_histogram_is_on_the_page_as_prometheus_wants_it(attribute: str) -> None:
    metrics = Metrics()
    histogram = getattr(metrics, attribute)
    for bound in histogram.bounds:
        histogram.observe(bound)
    histogram.observe(1e6)
    name, _ = HISTOGRAMS[attribute]
    page = render(metrics, [])
    assert f"# TYPE {name} histogram".encode() in page
    found = samples(page)
    count = len(histogram.bounds) + 1
    assert found[f"{name}_count"] == found[f"{name}_bucket{{+Inf}}"] == count
    assert found[f"{name}_sum"] == pytest.approx(sum(histogram.bounds) + 1e6)
    for number, bound in enumerate(histogram.bounds, start=1):
        assert found[f"{name}_bucket{{{bound:g}}}"] == number


async def test_names_follow_the_conventions(running: Running) -> None:
    # https://prometheus.io/docs/practices/naming/
    async with running("resume") as server:
        page = server.metrics_page().decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", page, re.MULTILINE))
    assert kinds.keys() == helps.keys()
    for name, kind in kinds.items():
        assert re.fullmatch(r"(labserver|process)(_[a-z]+)+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|us|milliseconds|kb|mb|count|max|min)\Z", name)
        assert helps[name].endswith(".")


def queries(node: Any) -> Iterator[str]:
    """Yield every query of a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield value
            yield from queries(value)
    elif isinstance(node, list):
        for value in node:
            yield from queries(value)


async def test_every_query_of_the_dashboard_names_a_metric_that_is_there(
    running: Running,
) -> None:
    async with running("resume") as server, peer(server) as client:
        await client.join("a")
        await client.ask(type="publish", room="a", payload=1)
        there = {name.partition("{")[0] for name in samples(server.metrics_page())}
    asked = list(queries(json.loads((ROOT / "deploy" / "grafana.json").read_text())))
    assert len(asked) > 20
    for query in asked:
        if query != "prometheus":  # the kind of a data source, not a query
            names = re.findall(r"(?:labserver|process)_\w+", query)
            # tests/deploy/test_prometheus.py asks for the router's and Redis's.
            assert names or "haproxy_" in query or "redis_" in query, query
            assert {*names} <= there, query


def test_panels_of_the_dashboard_have_a_place_and_no_two_the_same() -> None:
    panels = json.loads((ROOT / "deploy" / "grafana.json").read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y)
            for x in range(place["w"])
            for y in range(place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


async def test_timer_that_is_in_time_is_not_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, wakes = 100.0, [0.5, 0.75]  # seconds until each timer runs

    async def sleep(seconds: float) -> None:
        nonlocal now
        if not wakes:
            raise asyncio.CancelledError
        now += wakes.pop(0)

    monkeypatch.setattr(lag_module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(lag_module, "asyncio", SimpleNamespace(sleep=sleep))
    seen, sums = Histogram((0.2, 10)), []
    probe = LagProbe(seen, interval=0.5, then=lambda: sums.append(seen.sum))
    with pytest.raises(asyncio.CancelledError):
        await probe.run()
    assert sums == pytest.approx([0.0, 0.25])


async def test_loop_that_is_blocked_is_seen() -> None:
    lag = Histogram((0.02, 10))
    probe = LagProbe(lag, interval=0.01)
    task = asyncio.create_task(probe.run())
    try:
        await eventually(lambda: sum(lag.counts) > 1)
        time.sleep(0.05)  # noqa: ASYNC251 (this is the blocked loop)
        await eventually(lambda: lag.counts[1] > 0)
    finally:
        task.cancel()


@pytest.mark.parametrize("stage", ["rooms", "resume"])
async def test_each_flush_is_measured_once(stage: str, running: Running) -> None:
    async with (
        running(stage) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        await ann.join("a")
        await bob.join("a")
        for number in range(3):
            await ann.ask(type="publish", room="a", payload=number)
            await bob.until("message")
        page = samples(server.metrics_page())
        flushes = page["labserver_flushes_total"]
        assert page["labserver_delivery_latency_seconds_count"] == flushes == 3
        assert page["labserver_flush_messages_count"] == 3
        assert page["labserver_flush_messages_sum"] == 3
        assert page["labserver_delivery_latency_seconds_sum"] > 0
        trips = page["labserver_broker_latency_seconds_count"]
        assert trips == (3 if stage == "resume" else 0)


async def test_outbox_bytes_are_those_of_now(running: Running) -> None:
    async with running("backpressure") as server, peer(server) as client:
        page = samples(server.metrics_page())
        assert page["labserver_outbox_bytes"] == 0
        (connection,) = server.connections
        connection.pause_writing()
        connection.reply(Pong())
        waiting = samples(server.metrics_page())["labserver_outbox_bytes"]
        assert waiting == len(b'..{"type":"pong"}')
        connection.resume_writing()
        await client.until("pong")
        assert samples(server.metrics_page())["labserver_outbox_bytes"] == 0


def test_memory_of_the_process_is_bytes() -> None:
    assert 10 * 2**20 < resident_memory() < 10 * 2**30
    page = samples(render(Metrics(), []))
    assert page["process_resident_memory_bytes"] > 10 * 2**20
    assert page["process_cpu_seconds_total"] > 0


@pytest.mark.parametrize("stage", ["rooms", "resume"])
async def test_server_counts_what_happens(stage: str, running: Running) -> None:
    async with running(stage) as server:
        async with peer(server) as ann, peer(server, "bob") as bob:
            await ann.join("a")
            await bob.join("a")
            await ann.ask(type="publish", room="a", payload=1)
            await bob.until("message")
            page = samples(server.metrics_page())
            assert page["labserver_connections"] == 2
            assert page["labserver_rooms"] == 1
            assert page["labserver_handshakes_accepted_total"] == 2
            assert page["labserver_messages_received_total"] == 3
            assert page["labserver_messages_published_total"] == 1
            assert page["labserver_deliveries_total"] == 2
            assert page["labserver_broker_up"] == 1
            assert page["labserver_draining"] == 0
        await eventually(lambda: not server.connections)
        page = samples(server.metrics_page())
        assert page["labserver_closes_total{client,1000}"] == 2
        assert page["labserver_connections"] == page["labserver_rooms"] == 0


async def test_closes_say_who_closed(running: Running) -> None:
    async with running("resume", message_size_limit=100) as server:
        closes = server.metrics.closes
        async with peer(server):
            pass
        await eventually(lambda: closes == {(1000, "client"): 1})
        async with peer(server) as lost:
            lost.socket.transport.abort()
            await eventually(lambda: closes[1006, "network"] == 1)
        async with peer(server) as loud:
            await loud.send(type="echo", payload="x" * 200)
            await eventually(lambda: closes[1009, "server"] == 1)
        async with peer(server):
            await server.drain(1)
            await eventually(lambda: closes[1001, "server"] == 1)
        assert closes.total() == 4


async def test_cursors_that_are_honoured_and_not_are_counted(running: Running) -> None:
    async with running("resume") as server, peer(server) as client:
        epoch = (await client.join("a"))["epoch"]
        await client.join("a", after={"epoch": epoch, "seq": 0})
        await client.join("a", after={"epoch": "another", "seq": 0})
        await client.join("a", after={"epoch": epoch, "seq": 9})
        page = samples(server.metrics_page())
        assert page["labserver_recoveries_total"] == 1
        assert page["labserver_recovery_failures_total"] == 2


@pytest.mark.parametrize("stage", ["rooms", "resume"])
async def test_publish_that_was_a_repetition_is_not_counted(
    stage: str, running: Running
) -> None:
    async with running(stage) as server, peer(server) as client:
        await client.join("a")
        for _ in range(3):
            await client.ask(type="publish", room="a", payload=1, key="k")
        assert samples(server.metrics_page())["labserver_messages_published_total"] == 1


async def test_page_shows_no_token_and_no_user(running: Running) -> None:
    async with running("resume") as server, peer(server, "somebody") as client:
        await client.join("somewhere")
        page = server.metrics_page()
        assert b"somebody" not in page
        assert b"somewhere" not in page
