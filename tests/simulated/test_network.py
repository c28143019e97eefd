"""The network in memory: bytes in order, and what a fault does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from labserver.simulated.loop import Process
from labserver.simulated.network import WINDOW, Network, NetworkLoop

TEXT = bytes(range(256)) * 40
SEEDS = [*"0123456789"]


class End(asyncio.Protocol):
    """One end of a connection: what it got, and how it ended."""

    def __init__(self) -> None:
        self.got = b""
        self.ended: list[object] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data

    def eof_received(self) -> None:
        self.ended.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.append(exc)


class Hosts:
    """A client and a server, each a process; the client is connected."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, NetworkLoop)
        self.loop, self.network = loop, loop.network
        self.server = Process(loop, "server", "seed")
        self.client = Process(loop, "client", "seed")
        self.near, self.far = End(), End()

    async def connect(self) -> None:
        loop = self.loop
        await self.server.start(loop.create_server(lambda: self.far, "server", 80))
        await self.again()

    async def again(self) -> None:
        work = self.loop.create_connection(lambda: self.near, "server", 80)
        await self.client.start(work)
        await asyncio.sleep(0.1)


def on_hosts(seed: str, check: Callable[[Hosts], Awaitable[None]]) -> None:
    """Run a check on two hosts that are connected."""

    async def life() -> None:
        hosts = Hosts()
        await hosts.connect()
        await check(hosts)

    loop = NetworkLoop(seed)
    Network(loop, seed)
    loop.run_until_complete(life())
    loop.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_arrive_in_order(seed: str) -> None:
    async def check(hosts: Hosts) -> None:
        for start in range(0, len(TEXT), 100):
            hosts.near.transport.write(TEXT[start : start + 100])
        hosts.near.transport.close()
        await asyncio.sleep(1)
        assert hosts.far.got == TEXT
        assert hosts.far.ended == ["eof", None]
        assert hosts.near.ended == [None]

    on_hosts(seed, check)


@pytest.mark.parametrize("seed", SEEDS)
def test_cut_connection_gives_a_beginning_and_then_a_reset(seed: str) -> None:
    async def check(hosts: Hosts) -> None:
        hosts.near.transport.write(TEXT)
        hosts.network.cut(hosts.near.transport)
        await asyncio.sleep(1)
        assert TEXT.startswith(hosts.far.got)
        for end in (hosts.near, hosts.far):
            assert isinstance(end.ended[0], ConnectionResetError)

    on_hosts(seed, check)


def test_reader_that_does_not_read_fills_the_window() -> None:
    async def check(hosts: Hosts) -> None:
        hosts.far.transport.pause_reading()
        hosts.near.transport.write(bytes(3 * WINDOW))
        await asyncio.sleep(1)
        assert hosts.near.transport.get_write_buffer_size() == 2 * WINDOW
        hosts.far.transport.resume_reading()
        await asyncio.sleep(1)
        assert hosts.near.transport.get_write_buffer_size() == 0
        assert len(hosts.far.got) == 3 * WINDOW

    on_hosts("seed", check)


def test_parted_hosts_get_later_what_was_sent_meanwhile() -> None:
    async def check(hosts: Hosts) -> None:
        hosts.network.part("client", "server")
        hosts.near.transport.write(b"late")
        await asyncio.sleep(60)
        assert hosts.far.got == b""
        hosts.network.join("client", "server")
        await asyncio.sleep(1)
        assert hosts.far.got == b"late"

    on_hosts("seed", check)


def test_dead_process_resets_its_connections_and_listens_no_more() -> None:
    async def check(hosts: Hosts) -> None:
        hosts.server.kill()
        hosts.network.bury(hosts.server)
        await asyncio.sleep(1)
        assert isinstance(hosts.near.ended[0], ConnectionResetError)
        with pytest.raises(ConnectionRefusedError):
            await hosts.again()

    on_hosts("seed", check)


def test_peer_that_sends_to_a_closed_end_is_reset() -> None:
    async def check(hosts: Hosts) -> None:
        hosts.far.transport.close()
        hosts.near.transport.write(b"too late")
        await asyncio.sleep(1)
        assert hosts.far.ended == [None]
        assert hosts.near.ended[0] in ("eof", None)
        assert hosts.near.transport.is_closing()

    on_hosts("seed", check)
