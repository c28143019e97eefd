"""The metrics page: what Prometheus reads is what was counted."""

from __future__ import annotations

import math

import pytest
from conftest import Running, eventually, peer
from prometheus_client.parser import text_string_to_metric_families

from labserver.metrics import COUNTERS, Metrics, render, resident_memory


def samples(page: bytes | str) -> dict[str, float]:
    """Return name (with labels, if any) and value of every sample of a page."""
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
    assert {*Metrics.__slots__} == {*COUNTERS, "closes", "refused"}


def test_closes_and_refusals_have_a_label() -> None:
    metrics = Metrics()
    metrics.closes.update([4409, 1001, 4409])
    metrics.refused[401] += 5
    page = samples(render(metrics, []))
    assert page["labserver_closes_total{4409}"] == 2
    assert page["labserver_closes_total{1001}"] == 1
    assert page["labserver_handshakes_refused_total{401}"] == 5


def test_gauges_are_what_is_given() -> None:
    page = samples(render(Metrics(), [("a", "An a.", 1.5), ("b", "A b.", math.nan)]))
    assert page["a"] == 1.5
    assert math.isnan(page["b"])


def test_every_name_has_one_prefix_and_a_help() -> None:
    for name, text in COUNTERS.values():
        assert name.startswith("labserver_")
        assert text.endswith(".")


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
        assert page["labserver_closes_total{1000}"] == 2
        assert page["labserver_connections"] == page["labserver_rooms"] == 0


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
