"""Which requests come from Locust's page itself, by what a browser says of them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_ours(host: str | None, listening: str | None) -> bool:
    """Return whether no stranger's DNS can have led a browser here.

    An address is not looked up, and for ``localhost`` and the names below it a browser
    asks no DNS server (RFC 6761 section 6.3).

    Args:
        host: The header ``Host``.
        listening: ``--web-host``, an address or a name.

    """
    try:
        name = (urlsplit(f"//{host or ''}").hostname or "").removesuffix(".")
    except ValueError:  # an address in brackets that is none
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if listening and name == listening.lower().removesuffix("."):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_own(origin: str | None, host: str | None, site: str | None) -> bool:
    """Return whether a request comes from the page itself, or from no browser.

    A browser names the origin of each POST, and of each request whose answer a script
    of another site wants to read (Fetch Standard section 3.2). Behind a proxy that
    changes ``Host``, it says itself whether both are the same.

    Args:
        origin: The header ``Origin``.
        host: The header ``Host``.
        site: The header ``Sec-Fetch-Site``, which no script can set.

    """
    if origin is None or site == "same-origin":
        return True
    return origin.partition("://")[2] == host
