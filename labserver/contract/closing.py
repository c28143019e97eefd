"""Every way the server ends a conversation, as data.

A close code is a promise about the future: a client reads it to decide whether to
come back. Codes of the private band 4400-4499 echo the HTTP status of the same
meaning (RFC 6455 section 7.4.2 leaves 4000-4999 to applications).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Return(Enum):
    """Whether a client that was closed may connect again."""

    SOON = "soon"  # after its usual back-off
    LATER = "later"  # after a longer pause than usual
    NEW_TOKEN = "new_token"  # only with a fresh token
    NEVER = "never"  # the answer will not change


@dataclass(frozen=True, slots=True)
class Close:
    """A close code, its reason (at most 123 bytes), and what the client may do."""

    code: int
    reason: str
    comes_back: Return

    def because(self, reason: str) -> Close:
        """Return the same close with another reason."""
        return Close(self.code, reason, self.comes_back)

    def after(self, seconds: float) -> Close:
        """Return the same close, asking the client to stay away for so long."""
        return self.because(f"{self.reason} retry_after_ms={round(seconds * 1000)}")


NORMAL = Close(1000, "bye", Return.NEVER)
DRAINING = Close(1001, "draining", Return.SOON)
NOT_TEXT = Close(1003, "binary frame on a JSON connection", Return.NEVER)
BAD_UTF8 = Close(1007, "text frame is not UTF-8", Return.NEVER)
TOO_BIG = Close(1009, "message too big", Return.NEVER)
INTERNAL = Close(1011, "internal error", Return.LATER)
OVERLOADED = Close(1013, "overloaded", Return.LATER)
TOKEN_EXPIRED = Close(4401, "token invalid or expired", Return.NEW_TOKEN)
FORBIDDEN = Close(4403, "forbidden", Return.NEVER)
HEARTBEAT_LOST = Close(4408, "heartbeat lost", Return.SOON)
TOO_SLOW = Close(4409, "too slow", Return.SOON)
RATE_LIMITED = Close(4429, "rate limited", Return.LATER)

CLOSES = {
    close.code: close
    for close in (
        NORMAL,
        DRAINING,
        NOT_TEXT,
        BAD_UTF8,
        TOO_BIG,
        INTERNAL,
        OVERLOADED,
        TOKEN_EXPIRED,
        FORBIDDEN,
        HEARTBEAT_LOST,
        TOO_SLOW,
        RATE_LIMITED,
    )
}


def draining(retry_after: float) -> Close:
    """Return the close of a server that drains; ``retry_after`` is in seconds."""
    return DRAINING.after(retry_after)


def comes_back(code: int | None) -> Return:
    """Return what a client may do after ``code``.

    With an unknown code, or with none because the connection broke, nobody decided
    against the client: it may come back. An unknown code of the private band 4000-4999
    is a refusal that the client cannot read: it stays away.
    """
    if code in CLOSES:
        return CLOSES[code].comes_back
    if code is not None and 4000 <= code <= 4999:
        return Return.NEVER
    return Return.SOON


def retry_after(reason: str) -> float | None:
    """Return the seconds that ``retry_after_ms=N`` in a close reason asks for."""
    for word in reason.split():
        name, _, value = word.partition("=")
        if name == "retry_after_ms" and is_number(value):
            return min(int(value[:9]) / 1000, 3600.0)
    return None


# Before the upgrade, a server or a proxy refuses with an HTTP status.


def after_status(status: int) -> Return:
    """Return what a client may do after HTTP ``status`` in answer to its handshake.

    A status about the server or a proxy passes with time (5xx, also 520 to 530, which
    no RFC defines), and so do 408, 425 and 429.
    """
    if status == 401:
        return Return.NEW_TOKEN
    passes = status in (408, 425, 429) or 500 <= status <= 599
    return Return.SOON if passes else Return.NEVER


def retry_after_header(value: str) -> float:
    """Return the seconds that ``Retry-After`` asks for; 0 if it is empty or a date."""
    return min(float(value[:9]), 3600.0) if is_number(value) else 0.0


def is_number(text: str) -> bool:
    """Return whether a text is ASCII digits and nothing else."""
    return text.isascii() and text.isdigit()
