"""Where a server listens, and its TLS."""

from __future__ import annotations

import socket
import ssl

from labserver.errors import SettingsError
from labserver.settings import Settings


def open_port(
    host: str,
    port: int,
    settings: Settings,
    chosen_by: str = "--port",
) -> socket.socket:
    """Return a bound socket whose connections inherit the send buffer.

    Raises:
        SettingsError: The place is taken, or none of this machine's.

    """
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise SettingsError("--host must name an address, such as 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only where it is; with
    # Nagle's algorithm an answer after an answer waits 40 ms.
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
            f"(--host and {chosen_by} choose another place)"
        ) from None
    return listening


def url_of(host: str, port: int, settings: Settings, scheme: str = "ws") -> str:
    """Return where a server can be reached."""
    scheme += "s" if settings.tls_cert else ""
    name = f"[{host.strip('[]')}]" if ":" in host else host
    return f"{scheme}://{name}:{port}"


def tls(settings: Settings) -> ssl.SSLContext | None:
    """Return how connections are encrypted, or None.

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
        # Nobody is there to be asked for a password.
        context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as exc:
        mismatch = "MISMATCH" in str(getattr(exc, "reason", ""))
        why = (
            "the key is of another certificate"
            if mismatch
            else "they must be PEM files, the key without a password"
        )
        raise SettingsError(
            f"--tls-cert and --tls-key (LAB_TLS_CERT, LAB_TLS_KEY): {why}"
        ) from None
    return context
