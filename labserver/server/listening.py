"""Where a server listens: a port, shared or not, or a Unix socket; and its TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat

from labserver.errors import SettingsError
from labserver.settings import Settings

PATH_LIMIT = 107  # bytes; sun_path of unix(7), without the zero at its end


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
        if settings.reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        set_send_buffer(listening, settings)
        listening.bind((host, port))
    except (OSError, OverflowError) as exc:
        listening.close()
        why = getattr(exc, "strerror", None) or exc
        raise SettingsError(
            f"cannot listen on {host}:{port}: {why} "
            f"(--host and {chosen_by} choose another place)"
        ) from None
    return listening


def set_send_buffer(listening: socket.socket, settings: Settings) -> None:
    if settings.send_buffer:
        # Before listen(): the kernel scales windows when it accepts.
        size = settings.send_buffer
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def open_unix(path: str, settings: Settings) -> socket.socket:
    """Return a socket bound to a path, for its owner and group (mode 660).

    A socket that a server left behind when it was killed is taken over; one on which
    somebody answers is not.

    Raises:
        SettingsError: Something else is there, or it may not be made.

    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        set_send_buffer(listening, settings)
        before = os.umask(0o117)  # from the first moment on, not a moment later
        try:
            listening.bind(path)
        finally:
            os.umask(before)
    except OSError as exc:
        listening.close()
        why = exc.strerror or exc
        raise SettingsError(
            f"--unix-socket (LAB_UNIX_SOCKET): cannot listen on {path}: {why}"
        ) from None
    return listening


def _remove_stale(path: str) -> None:
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise OSError(f"the path is longer than {PATH_LIMIT} bytes")
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError("there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError("another server listens there")


def close_unix(path: str, inode: int) -> None:
    """Remove a socket, unless another server has put its own there since."""
    with contextlib.suppress(OSError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)


def url_of(host: str, port: int, settings: Settings, scheme: str = "ws") -> str:
    """Return where a server can be reached."""
    scheme += "s" if settings.tls_cert else ""
    if settings.unix_socket and scheme[0] == "w":
        return f"{scheme}+unix://{os.path.abspath(settings.unix_socket)}"
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
