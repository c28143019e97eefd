"""How a load test speaks with a server: one :class:`Dialect` for each kind of server.

A scenario says what its users do. A dialect says how that is written on the wire. To
load a server of your own, write a dialect of some forty lines and name it:
``locust -f loadtests --dialect my_chat.py:Chat``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import msgspec

from labserver.contract.messages import Ack, Error, Gap, Hello, Joined, Left

SHIPPED = {
    "lab": "labserver.load.dialects.lab:Lab",
    "chat": "labserver.load.dialects.chat:Chat",
    "socketio": "labserver.load.dialects.socketio:SocketIO",
    "phoenix": "labserver.load.dialects.phoenix:Phoenix",
    "centrifugo": "labserver.load.dialects.centrifugo:Centrifugo",
}


class Stamp(msgspec.Struct):
    """The payload of a published message. A server passes it on as it is.

    Attributes:
        due: When it was to be sent, on the clock ``time.monotonic_ns``.
        sent: When it was sent, or would have been if the server had let it: what the
            publisher was late by itself is ``sent - due``.
        replica: Name of the publisher's server, if servers have names.
        number: The publisher's own count, from 1.

    """

    due: int
    sent: int
    replica: str = ""
    number: int = 0


class Delivery(msgspec.Struct, tag_field="type", tag="message"):
    """A message that a load test has published.

    ``seq`` is the server's number of it, and 0 if the server does not number messages.
    """

    seq: int
    payload: Stamp


class Other(msgspec.Struct):
    """A message that no load test has published; ``seq`` as above."""

    seq: int = 0


class Reply(msgspec.Struct):
    """What the server asked for, such as the answer to its ping. It is sent at once."""

    data: bytes


Heard = Delivery | Other | Reply | Hello | Joined | Left | Gap | Ack | Error


def ready() -> Hello:
    """The server has greeted; now a room may be entered."""
    return Hello("", "", "", "", None)


def entered(room: str) -> Joined:
    """The user is in the room; what is published from now on must arrive."""
    return Joined(room, "", 0, recovered=False)


def heard(payload: Any, seq: int = 0) -> Delivery | Other:
    """A message has arrived.

    Args:
        payload: The payload, decoded, or as JSON.
        seq: The server's number of it, if it has one.

    """
    try:
        if isinstance(payload, str | bytes):
            return Delivery(seq, msgspec.json.decode(payload, type=Stamp))
        return Delivery(seq, msgspec.convert(payload, Stamp))
    except msgspec.MsgspecError:
        return Other(seq)


def accepted(room: str, ref: int) -> Ack:
    """The server has acknowledged the publish with this ``ref``."""
    return Ack(room, 0, ref)


def refused(why: str, ref: int | None = None) -> Error:
    """The server has refused something; ``ref`` if it was a publish."""
    return Error("refused", why, msgspec.UNSET if ref is None else ref)


class Dialect:
    """The language of one kind of server. Each connection has an instance of its own.

    Args:
        user: Name of the user, different for each connection.

    """

    subprotocols: ClassVar[Sequence[str]] = ()
    greets: ClassVar[bool] = False  # whether read() returns ready() before all else
    acknowledges: ClassVar[bool] = False  # whether each publish gets an accepted()
    numbered: ClassVar[bool] = False  # whether the server's own numbers are audited
    keepalive: ClassVar[tuple[float, bytes] | None] = None  # every so many seconds

    def __init__(self, user: str) -> None:
        self.user = user

    def address(self, url: str) -> str:
        """Return the URL to connect to; ``url`` is ``--host``, without a last slash."""
        return url

    def headers(self) -> Mapping[str, str]:
        """Return headers of the handshake, such as a token."""
        return {}

    def opened(self) -> Iterable[bytes]:
        """Return the messages to send first."""
        return ()

    def enter(self, room: str, after: Mapping[str, Any] | None) -> Iterable[bytes]:
        """Return the messages that enter a room.

        Args:
            room: Its name.
            after: Epoch and seq of the last message that the user has; None at first.

        """
        raise NotImplementedError

    def leave(self, room: str) -> Iterable[bytes]:
        """Return the messages that leave a room; none if that is not answered."""
        return ()

    def publish(self, room: str, payload: bytes, ref: int, key: str = "") -> bytes:
        """Return the message that publishes a payload, JSON, to a room.

        Args:
            room: Its name.
            payload: A JSON object.
            ref: Number that an acknowledgement names.
            key: If not empty, the message may be published again with the same key.

        """
        raise NotImplementedError

    def read(self, data: bytes) -> Iterable[Heard]:
        """Return what a message of the server says.

        Raises:
            ValueError, KeyError, TypeError, IndexError: It cannot be understood.

        """
        raise NotImplementedError


def named(name: str) -> type[Dialect]:
    """Return a dialect by its name, or by ``file.py:Class`` or ``module:Class``.

    Raises:
        ValueError: There is none; the message is a sentence.

    """
    place = SHIPPED.get(name, name)
    module, colon, kind = place.partition(":")
    if not colon:
        raise ValueError(
            f"there is no dialect {name!r}: it is one of {', '.join(SHIPPED)}, or "
            "file.py:Class"
        )
    try:
        found = getattr(_module(module), kind)
    except (ImportError, AttributeError, OSError, SyntaxError) as exc:
        raise ValueError(f"the dialect {name} cannot be used: {exc}") from None
    if not (isinstance(found, type) and issubclass(found, Dialect)):
        raise ValueError(f"{name} is not a labserver.load.Dialect")
    return found


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return import_module(name)
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("dialect_of_user", name)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
