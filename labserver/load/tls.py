"""TLS for the generator's sockets: it encrypts bytes, and does no I/O.

gevent's own TLS sockets hide when a segment arrived, so the socket stays a plain one
with the kernel's time stamps, and bytes pass through here.

Certificates are checked. ``SSL_CERT_FILE`` names a file with the certificate of a CA of
your own. ``LAB_LOAD_TLS_NAME`` is the name that the server is asked for (SNI) and that
its certificate must have, where that is not the host of the URL: a server behind a
router, by its address.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from functools import lru_cache

NAME = "LAB_LOAD_TLS_NAME"


@lru_cache(maxsize=1)
def context() -> ssl.SSLContext:
    """Return the context of all connections; loading the CAs takes milliseconds."""
    return ssl.create_default_context()


class Tls:
    """One encrypted connection.

    Args:
        host: Of the URL.

    Attributes:
        over: Whether the other side has ended the encryption: no more will come.

    """

    def __init__(self, host: str) -> None:
        self.over = False
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = os.environ.get(NAME) or host
        self._object = context().wrap_bio(
            self._arrived, self._leaving, server_hostname=name
        )

    def shake_hands(
        self, send: Callable[[bytes], None], receive: Callable[[], bytes]
    ) -> None:
        """Agree on keys, and check the certificate.

        Args:
            send: Sends bytes.
            receive: Waits for bytes; returns none when no more will come.

        Raises:
            OSError: The other side hung up, or its certificate is not trusted.

        """
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                send(self._leaving.read())
                if not (data := receive()):
                    raise ConnectionError("it hung up in the TLS handshake") from None
                self._arrived.write(data)
            except ssl.SSLCertVerificationError as exc:
                raise Untrusted(exc.verify_message) from None
            else:
                break
        send(self._leaving.read())

    def decrypted(self, data: bytes) -> bytes:
        """Return what is in these bytes and those before; perhaps nothing yet."""
        self._arrived.write(data)
        parts = []
        try:
            while part := self._object.read(65536):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.over = True
        return b"".join(parts)

    def encrypted(self, data: bytes) -> bytes:
        if data:
            self._object.write(data)
        return self._leaving.read()


class Untrusted(OSError):
    """The certificate is not trusted, or of another name; the message says why."""
