"""Where load may go: to this machine, and to hosts that ``LAB_LOAD_HOSTS`` names.

A load generator, or a judge, that can be pointed at anybody is a weapon.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

PORTS = {"wss": 443, "https": 443}  # else 80


class NotThisMachine(Exception):
    """A URL leads to another machine; the message is a sentence."""


def resolve(
    url: str, look_up: Callable[..., Any] = socket.getaddrinfo
) -> list[tuple[int, Any]]:
    """Return families and addresses of a URL's host, which must be this machine.

    A host that ``LAB_LOAD_HOSTS`` names (comma-separated) may also have a private
    address.

    Args:
        url: Whose host.
        look_up: The resolver, as ``socket.getaddrinfo``.

    Raises:
        NotThisMachine: It is another machine.
        OSError: The name is unknown.

    """
    parts = urlsplit(url)
    allowed = os.environ.get("LAB_LOAD_HOSTS", "").lower().split(",")
    named = parts.hostname in [name.strip() for name in allowed]
    places: list[tuple[int, Any]] = []
    for family, _, _, _, address in look_up(
        *(parts.hostname, parts.port or PORTS.get(parts.scheme, 80)),
        type=socket.SOCK_STREAM,
    ):
        place = str(address[0]).partition("%")[0]
        ip = ipaddress.ip_address(place)
        if not (ip.is_loopback or (named and ip.is_private)):
            known = "" if place == parts.hostname else f" ({place})"
            raise NotThisMachine(
                f"load goes to this machine only, and {parts.hostname}{known} is not a "
                "loopback address"
            )
        places.append((family, address))
    return places
