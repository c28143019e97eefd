"""The sockets that a server listens on, and its TLS."""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

from labserver.errors import SettingsError
from labserver.settings import Settings


class Door(Protocol):
    """Another way into a server's rooms, on a port of its own that is bound already."""

    @property
    def url(self) -> str:
        """The address that clients use."""

    async def start(self) -> None:
        """Return when it accepts."""

    async def stop(self, deadline: float) -> None:
        """Let requests finish until ``deadline``, then abort them.

        Args:
            deadline: Of the clock ``time.monotonic``.

        """


def open_port(
    host: str,
    port: int,
    settings: Settings,
    chosen_by: str = "--port",
) -> socket.socket:
    """Return a bound socket; its connections inherit the setting ``send_buffer``.

    Args:
        host: Address to listen on, IPv6 with or without brackets.
        port: Port; 0 for any free one.
        settings: The server's settings.
        chosen_by: Flag that sets the port, for the error message.

    Raises:
        SettingsError: The address is in use, or is not one of this machine's.

    """
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise SettingsError("--host must name an address, such as 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name their protocol. With Nagle's
    # algorithm the second of two answers waits 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.send_buffer:
            # Before listen(): the kernel scales windows when it accepts.
            size = settings.send_buffer
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        listening.bind((host, port))
    except (OSError, OverflowError) as exc:
        listening.close()
        why = getattr(exc, "strerror", None) or exc
        raise SettingsError(
            f"cannot listen on {host}:{port}: {why} "
            f"(choose another address with --host and {chosen_by})"
        ) from None
    return listening


def url_of(host: str, port: int, settings: Settings, scheme: str = "ws") -> str:
    """Return the URL of a server, with ``wss`` or ``https`` where it has TLS."""
    scheme += "s" if settings.tls_cert else ""
    name = f"[{host.strip('[]')}]" if ":" in host else host
    return f"{scheme}://{name}:{port}"


def tls(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of the settings' certificate; None if they have none.

    Raises:
        SettingsError: Certificate and key cannot be read, or do not belong together.

    """
    cert, key = settings.tls_cert, settings.tls_key
    if not cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (
        ("--tls-cert (LAB_TLS_CERT)", cert),
        ("--tls-key (LAB_TLS_KEY)", key),
    ):
        try:
            with open(path, "rb"):
                pass
        except OSError as exc:
            raise SettingsError(f"{name}: {path}: {exc.strerror}") from None
    try:
        # Without this, OpenSSL would ask for a password on the terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as exc:
        mismatch = "MISMATCH" in str(getattr(exc, "reason", ""))
        why = (
            "the key belongs to another certificate"
            if mismatch
            else "they must be PEM files, the key without a password"
        )
        raise SettingsError(
            f"--tls-cert and --tls-key (LAB_TLS_CERT, LAB_TLS_KEY): {why}"
        ) from None
    return context
