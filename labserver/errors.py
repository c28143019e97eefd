"""The exceptions of the lab: one small tree."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET, UnsetType


class LabError(Exception):
    """Base of everything that the lab raises on purpose."""


class SettingsError(LabError):
    """A setting has a value that cannot be used; the message names the setting."""


class RedisMissing(LabError):
    """No Redis can be found or reached; the message says what to do."""


class BadMessage(LabError):
    """A client sent what the contract does not allow; it is answered, not closed.

    Args:
        code: One of the contract's error codes, such as ``bad_json``.
        detail: A sentence for the person who wrote the client.
        ref: The message's ``ref``, when it could be read.

    """

    def __init__(
        self, code: str, detail: str, ref: str | int | float | UnsetType = UNSET
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.ref = ref


class BrokerDown(LabError):
    """The broker cannot be reached: nothing may be acknowledged now."""


class TooManyRooms(LabError):
    """A user publishes to more new rooms than allowed; other rooms still work."""


class Refused(LabError):
    """A handshake that ends with an HTTP answer instead of a socket.

    Args:
        status: HTTP status code.
        detail: A sentence for the person who wrote the client; never a secret.
        headers: Further response headers, such as ``Retry-After``.

    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
