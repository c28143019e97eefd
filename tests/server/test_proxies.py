"""A client's address: trusted proxies are believed, and nobody else."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from labserver.contract.tokens import issue
from labserver.errors import SettingsError
from labserver.server.proxies import HOPS_LIMIT, Proxies
from labserver.server.server import LabServer
from labserver.settings import from_environment
from tests.conftest import SECRET, Running, eventually
from tests.support.plain_http import ask

PROXIES = Proxies(("10.0.0.0/8", "192.0.2.1", "fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # The header of a peer that is not trusted is ignored.
        ("203.0.113.9", ["198.51.100.7"], "203.0.113.9"),
        # From a proxy, the rightmost address that is not a proxy's.
        ("10.1.1.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["1.2.3.4, 198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["1.2.3.4", "198.51.100.7, 192.0.2.1"], "198.51.100.7"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.1.1.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        # With a port, as some write it.
        ("10.1.1.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.1.1.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        # An entry that is no address ends the search at the last trusted entry.
        ("10.1.1.1", ["unknown"], "10.1.1.1"),
        ("10.1.1.1", [""], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.7, nonsense, 10.2.2.2"], "10.2.2.2"),
        # Only proxies: the farthest one counts.
        ("10.1.1.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.1.1.1", [], "10.1.1.1"),
    ],
)
def test_client_is_the_rightmost_address_that_is_no_proxy(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert PROXIES.client_of(peer, forwarded) == client


def test_number_of_hops_is_bounded() -> None:
    forwarded = ", ".join(["198.51.100.7", *["10.1.1.1"] * HOPS_LIMIT])
    assert PROXIES.client_of("10.1.1.1", [forwarded]) == "10.1.1.1"
    shorter = forwarded.removesuffix(", 10.1.1.1")
    assert PROXIES.client_of("10.1.1.1", [shorter]) == "198.51.100.7"


def test_what_a_header_says_is_not_kept() -> None:
    tracemalloc.start()
    try:
        for number in range(4000):
            PROXIES.client_of("10.1.1.1", [f"{number}{'x' * 4000}"])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2**20


@given(st.lists(st.text(max_size=40), max_size=5))
def test_no_header_is_an_error(forwarded: list[str]) -> None:
    assert PROXIES.client_of("10.1.1.1", forwarded)


async def connected(server: LabServer, **headers: str) -> ClientConnection:
    """Connect with further headers; a ``_`` in a name stands for ``-``."""
    token = {"Authorization": f"Bearer {issue(SECRET, 'ann')}"}
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return await connect(
        server.url, additional_headers=token | more, ping_interval=None, proxy=None
    )


def addresses(server: LabServer) -> set[str]:
    return {connection.address for connection in server.connections}


async def test_cap_is_on_the_client_behind_a_trusted_proxy(running: Running) -> None:
    async with running(
        "auth", address_limit=1, trusted_proxies=("127.0.0.1",)
    ) as server:
        one = await connected(server, X_Forwarded_For="198.51.100.1")
        two = await connected(server, X_Forwarded_For="evil, 198.51.100.2")
        assert addresses(server) == {"198.51.100.1", "198.51.100.2"}
        with pytest.raises(InvalidStatus) as refused:  # entries on the left do not help
            await connected(server, X_Forwarded_For="198.51.100.9, 198.51.100.1")
        assert refused.value.response.status_code == 429
        await one.close()
        await eventually(lambda: addresses(server) == {"198.51.100.2"})
        again = await connected(server, X_Forwarded_For="198.51.100.1")
        await again.close()
        await two.close()


async def test_addresses_of_one_ipv6_network_are_one_client(running: Running) -> None:
    async with running(
        "auth", address_limit=1, trusted_proxies=("127.0.0.1",)
    ) as server:
        one = await connected(server, X_Forwarded_For="2001:db8:1:2::1")
        with pytest.raises(InvalidStatus) as refused:
            await connected(server, X_Forwarded_For="2001:db8:1:2:ffff::7")
        assert refused.value.response.status_code == 429
        two = await connected(server, X_Forwarded_For="2001:db8:1:3::1")
        await one.close()
        await eventually(lambda: len(server.connections) == 1)
        again = await connected(server, X_Forwarded_For="2001:db8:1:2::7")
        await again.close()
        await two.close()


async def test_event_streams_are_capped_by_client_too(running: Running) -> None:
    async with (
        running(
            "rooms", address_limit=1, trusted_proxies=("127.0.0.1",), sse_port=0
        ) as server,
        await connected(server, X_Forwarded_For="198.51.100.1"),
    ):
        said = await ask(
            server, "GET", "/rooms/a", headers={"X-Forwarded-For": "198.51.100.1"}
        )
        assert said.status == 429
        said = await ask(
            *(server, "GET", "/rooms/a/poll?wait=0"),
            headers={"X-Forwarded-For": "198.51.100.2"},
        )
        assert said.status == 200


async def test_header_of_a_stranger_is_worth_nothing(running: Running) -> None:
    async with running(
        "auth", address_limit=1, trusted_proxies=("10.0.0.0/8",)
    ) as server:
        one = await connected(server, X_Forwarded_For="198.51.100.1")
        assert addresses(server) == {"127.0.0.1"}
        with pytest.raises(InvalidStatus) as refused:
            await connected(server, X_Forwarded_For="198.51.100.2")
        assert refused.value.response.status_code == 429
        await one.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LAB_TRUSTED_PROXIES", "10.0.0.0/99"),
        ("LAB_TRUSTED_PROXIES", "router"),
    ],
)
def test_bad_setting_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=name):
        from_environment({name: text})
