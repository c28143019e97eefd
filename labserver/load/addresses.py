"""URLs of the servers to load."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def normal(url: str) -> str:
    """Return ``url`` as a WebSocket URL; ``http`` and ``https`` are taken too.

    It has no slash at its end, so that a path can be appended.

    Raises:
        ValueError: It is no URL of a server; the message is a sentence.

    """
    try:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme not in ("ws", "wss") or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{shown(url)!r} is not a server's URL: write ws://127.0.0.1:8080"
        ) from None
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/"), parts.query, ""))


def shown(url: str) -> str:
    """Return ``url`` without user, password and query, which may be secret."""
    parts = urlsplit(url)
    return urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
    )
