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

UNIX = "unix"  # the address of whoever comes through a Unix socket
UNKNOWN = "unknown"  # of a peer that was gone before it was asked: nobody trusts it
HOPS_LIMIT = 32  # addresses of X-Forwarded-For that are looked at, from the right
V1_LIMIT = 107  # bytes with the line break; the specification's, section 2.1
V2_LIMIT = 4096  # bytes: addresses, and what a proxy may tell beside them
V1_START = b"PROXY "
V2_START = b"\r\n\r\n\0\r\nQUIT\n"


class BadHeader(Exception):
    """A connection does not begin with a PROXY header."""


class Proxies:
    """The proxies that are believed.

    Args:
        trusted: Addresses, networks such as ``10.0.0.0/8``, or ``unix``.
        proxy_protocol: Whether connections from them begin with a PROXY header.

    Raises:
        ValueError: One is neither.

    """

    def __init__(
        self, trusted: Iterable[str] = (), proxy_protocol: bool = False
    ) -> None:
        names = set(trusted)
        self.unix = UNIX in names
        self.networks = [ip_network(name, strict=False) for name in names - {UNIX}]
        self.proxy_protocol = proxy_protocol

    def trusts(self, address: str) -> bool:
        if address == UNIX:
            return self.unix
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


def read_header(data: bytes) -> tuple[str | None, int] | None:
    """Return the address that a PROXY header names, and the length of the header.

    The address is None when the proxy speaks for itself, such as in a health check.
    None alone means that the header goes on. Versions 1 and 2 of
    https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt.

    Raises:
        BadHeader: It is none, or longer than one may be.

    """
    if V2_START.startswith(data[:12]):
        return _read_v2(data)
    if V1_START.startswith(data[:6]):
        return _read_v1(data)
    raise BadHeader("no PROXY header")


def _read_v1(data: bytes) -> tuple[str | None, int] | None:
    line, end, _ = data[:V1_LIMIT].partition(b"\r\n")
    if not end:
        if len(data) >= V1_LIMIT:
            raise BadHeader("a PROXY header without an end")
        return None
    match line.split(b" "):
        case [_, b"UNKNOWN", *_]:
            return None, len(line) + 2
        case [_, b"TCP4" | b"TCP6" as family, source, _, _, _]:
            text = source.decode("ascii", "replace")
            if _parsed(text) is not None and (":" in text) == (family == b"TCP6"):
                return normal(text), len(line) + 2
    raise BadHeader("a PROXY header of version 1 that cannot be read")


def _read_v2(data: bytes) -> tuple[str | None, int] | None:
    if len(data) < 16:
        return None
    command, family = data[12], data[13]
    size = 16 + int.from_bytes(data[14:16], "big")
    if command not in (0x20, 0x21) or size > V2_LIMIT:
        raise BadHeader("a PROXY header of version 2 that cannot be read")
    if len(data) < size:
        return None
    length = {0x11: 4, 0x21: 16}.get(family)  # TCP over IPv4, over IPv6
    if command == 0x20 or length is None:
        return None, size  # LOCAL, or a kind of address that means nothing here
    if size < 16 + 2 * length + 4:
        raise BadHeader("a PROXY header of version 2 that is too short")
    return normal(str(ip_address(data[16 : 16 + length]))), size
