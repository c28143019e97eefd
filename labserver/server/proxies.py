"""Finds a client's address behind proxies, and decides which proxies to believe.

A header about the client's address is only believed when a trusted proxy sends it.
Everybody else is at the address that the connection comes from. Otherwise a client
could get past a limit per address, or use up somebody else's, with a header.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

UNKNOWN = "unknown"  # address of a peer that left before it was read; never trusted
HOPS_LIMIT = 32  # addresses of X-Forwarded-For that are read, from the right
LONGEST = 64  # characters of an address: 45 of IPv6, and a zone of up to 15


class Proxies:
    """The trusted proxies.

    Args:
        trusted: Addresses, and networks such as ``10.0.0.0/8``.

    Raises:
        ValueError: One of them is neither an address nor a network.

    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self.networks = [ip_network(name, strict=False) for name in trusted]

    def trusts(self, address: str) -> bool:
        found = _parsed(address)
        return found is not None and any(found in each for each in self.networks)

    def client_of(self, address: str, forwarded: Sequence[str]) -> str:
        """Return the client's address.

        Each proxy appends the address of the peer that it heard from. So the list is
        read from the right, as long as a trusted proxy wrote the entry. The first
        address that is not a trusted proxy's is the client's; the client may have made
        up everything left of it.

        Args:
            address: The address that the connection comes from.
            forwarded: The values of ``X-Forwarded-For``.

        """
        if not forwarded or not self.trusts(address):
            return address
        entries = ",".join(forwarded).rsplit(",", HOPS_LIMIT)[-HOPS_LIMIT:]
        for entry in reversed(entries):
            found = _parsed(_without_port(entry.strip()))
            if found is None:
                return address  # the last address that a trusted proxy named
            address = str(found)
            if not self.trusts(address):
                break
        return address


def _without_port(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    # What a peer sent may be long, and must not stay in a cache.
    return _read(text) if len(text) <= LONGEST else None


@lru_cache(4096)  # 16 us, twice a handshake; clients come back from the same address
def _read(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def normal(address: str) -> str:
    """Return an address in its normal form: IPv4 in IPv6 as IPv4, and no zone."""
    found = _parsed(address)
    return address if found is None else str(found)


@lru_cache(4096)  # also called for each publish
def neighbourhood(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 network (/64).

    A single subscriber may have 2**64 IPv6 addresses (RFC 6177).
    """
    if ":" not in address:
        return address
    found = _parsed(address)
    if not isinstance(found, IPv6Address):
        return address if found is None else str(found)
    return str(ip_network((found, 64), strict=False))
