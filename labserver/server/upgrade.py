"""The protocol of one connection: requests are read, and upgrades accepted, at once.

The library reads a request line by line through generators, and negotiates each detail
of a handshake in its most general form: 70 us of CPU, and here 20. What is not plain
here goes the library's way, and gets the library's answer.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Generator, Sequence
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import CLOSE, Frame
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from labserver.contract import wire
from labserver.server.intake import Gate

# The library logs requests, with their tokens, at DEBUG, and each connection at INFO.
library_log = logging.getLogger("labserver.websockets")
library_log.setLevel(logging.WARNING)

PLAIN_HEAD = 4096  # bytes; no line of such a head exceeds the library's limit
PLAIN_LINES = 64
# RFC 9112 section 3 and 5: the request line, then fields of a token and printable text.
_HEAD = re.compile(
    rb"GET ([!-~]+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)+)\r\n"
)
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes (RFC 6455 section 4.1)


class LabProtocol(ServerProtocol):
    """The library's protocol, which also accepts a close frame between fragments.

    A control frame may come between the fragments of a message (RFC 6455 section 5.4;
    Autobahn case 7.1.5). A close frame there is answered with its own code, not with
    1002. Through a raw echo without a size limit, none of Autobahn's 517 cases fails.
    Eleven pass as "non-strict", as the library has it: messages in the same read as a
    broken frame are not echoed (3.2, 3.3, 4.1.3, 4.1.4, 4.2.3, 4.2.4, 5.15), and bad
    UTF-8 is found at the end of its message (6.4.1 to 6.4.4). With the default limit,
    9.3 and 9.4 (messages of 4 MB) end with 1009 on purpose.

    Its reader is a :class:`~labserver.server.intake.Gate`.
    """

    reader: Gate

    def __init__(self, **options: Any) -> None:
        super().__init__(logger=library_log, **options)
        self.reader = Gate()

    def parse(self) -> Generator[None]:
        yield  # the library's __init__ begins this, before the reader is there
        # The library's own looks at the state now: a plain request was not fed to it.
        yield from super().parse()

    def upgrade(self, request: Request, more: dict[str, str]) -> bool:
        """Answer an upgrade.

        Args:
            request: The request.
            more: Headers to add to the answer, if it is 101.

        Returns:
            Whether the connection is a WebSocket now.

        """
        headers = request.headers
        if is_plain(headers):
            try:
                extensions, self.extensions = self.process_extensions(headers)
                self.subprotocol = self.process_subprotocol(headers)
            except InvalidHandshake:
                pass  # the library finds it again, and answers
            else:
                key = headers["Sec-WebSocket-Key"]
                answer = switching(key, extensions, self.subprotocol, more)
                self.writes.append(answer)
                self.state = OPEN
                return True
        response = self.accept(request)
        # The library's frames refer to the exception: a cycle would be freed late.
        exc: BaseException | None = self.handshake_exc
        while exc is not None:
            exc.__traceback__, exc = None, exc.__cause__
        if response.status_code == 101:
            response.headers.update(more)
        self.send_response(response)
        return response.status_code == 101

    def select_subprotocol(self, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        """Return the first subprotocol that both sides speak, or None."""
        return next((name for name in offered if name in (wire.JSON, wire.CBOR)), None)

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is CLOSE:
            self.current_size = None
        super().recv_frame(frame)


def plain_request(head: bytes | bytearray) -> Request | None:
    """Return the request that a head is; None if it is not complete and plain.

    A plain one is a GET without a body, and nothing follows it.
    """
    if len(head) > PLAIN_HEAD or not (found := _HEAD.fullmatch(head)):
        return None
    lines = found[2].decode("iso-8859-1").split("\r\n")[:-1]
    if len(lines) > PLAIN_LINES:
        return None
    headers = Headers()
    for line in lines:
        name, _, value = line.partition(":")
        headers.set_insecure(name, value.strip(" \t"))
    if headers.get_all("Transfer-Encoding") or headers.get_all("Content-Length"):
        return None
    return Request(found[1].decode("ascii"), headers)


def is_plain(headers: Headers) -> bool:
    """Return whether an upgrade's headers are as most clients send them."""
    get = headers.get_all
    connection, upgrade = get("Connection"), get("Upgrade")
    key = get("Sec-WebSocket-Key")
    return (
        len(connection) == len(upgrade) == len(key) == 1
        and connection[0].lower() in ("upgrade", "keep-alive, upgrade")
        and upgrade[0].lower() == "websocket"
        and get("Sec-WebSocket-Version") == ["13"]
        and len(get("Origin")) <= 1
        and _KEY.fullmatch(key[0]) is not None
    )


def switching(
    key: str, extensions: str | None, subprotocol: str | None, more: dict[str, str]
) -> bytes:
    """Return the answer that accepts an upgrade (RFC 6455 section 4.2.2)."""
    fields = {
        "Date": date(int(time.time())),
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": accept_key(key),
        "Sec-WebSocket-Extensions": extensions,
        "Sec-WebSocket-Protocol": subprotocol,
        **more,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode()


@lru_cache(maxsize=2)
def date(second: int) -> str:
    """Return a Unix time in whole seconds as the header ``Date`` has it."""
    return formatdate(second, usegmt=True)
