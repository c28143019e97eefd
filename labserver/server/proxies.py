"""Where a client is, when a proxy stands between: who may be believed, and how far.

What a peer says about an address is evidence only when the peer is a trusted proxy.
Everybody else is at the address that the connection comes from, whatever they say:
otherwise a header is all it takes to get past a cap per address, or to have it hit
somebody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

UNKNOWN = "unknown"  # of a peer that was gone before it was asked: nobody trusts it
HOPS_LIMIT = 32  # addresses of X-Forwarded-For that are looked at, from the right


class Proxies:
    """The proxies that are believed.

    Args:
        trusted: Addresses, and networks such as ``10.0.0.0/8``.

    Raises:
        ValueError: One is neither.

    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self.networks = [ip_network(name, strict=False) for name in trusted]

    def trusts(self, address: str) -> bool:
        found = _parsed(address)
        return found is not None and any(found in each for each in self.networks)

    def client_of(self, address: str, forwarded: Sequence[str]) -> str:
        """Return where the client is.

        Each proxy appends whom it heard from. So the list is read from the right, for
        as long as who wrote an entry is trusted: the first address that is not a
        trusted proxy's is the client's. What stands left of it, the client made up.

        Args:
            address: Where the connection comes from.
            forwarded: The values of ``X-Forwarded-For``.

        """
        if not forwarded or not self.trusts(address):
            return address
        entries = ",".join(forwarded).rsplit(",", HOPS_LIMIT)[-HOPS_LIMIT:]
        for entry in reversed(entries):
            found = _parsed(_without_port(entry.strip()))
            if found is None:
                return address  # the last that somebody trusted vouches for
            address = str(found)
            if not self.trusts(address):
                break
        return address


def _without_port(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def normal(address: str) -> str:
    """Return an address in the one way in which it is counted and compared."""
    found = _parsed(address)
    return address if found is None else str(found)


@lru_cache(4096)  # publishers are counted by it, too
def neighbourhood(address: str) -> str:
    """Return what counts as one client: an address, or a /64 network of IPv6.

    A single subscriber has 2**64 addresses of IPv6 to choose from (RFC 6177).
    """
    if ":" not in address:
        return address
    found = _parsed(address)
    if not isinstance(found, IPv6Address):
        return address if found is None else str(found)
    return str(ip_network((found, 64), strict=False))
