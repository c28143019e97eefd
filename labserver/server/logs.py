"""What the server says of itself, on standard error: text, or one JSON object a line.

No token ever: nothing that logs is given one, the library's own lines (which quote
requests) stay off, and what looks like a token all the same is struck out.

Peers decide how often connections end, and how often a Redis that is full refuses. So
that none of them can fill a disk, lines about connections and servers are at most
``RATE`` a second after a burst; the next one says how many were left out, and the
metrics count them all.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from labserver.server.limits import TokenBucket

RATE, BURST = 20.0, 100.0  # lines about others
OTHERS = ("connection", "address", "redis")  # fields of lines about them
# What a line may carry beside its message, given as ``extra``.
FIELDS = (
    *("connection", "user", "address", "code", "reason", "status", "detail"),
    *("url", "stage", "replica", "connections", "worker", "redis", "left_out"),
)
# A JWT; and whatever stands in a place of a token or of a password.
_SECRETS = re.compile(
    r"eyJ[\w-]*\.[\w-]*\.[\w-]*"
    r"|(?i:(?<=[?&]token=)|(?<=lab_token=)|(?<=bearer[ .]))[^\s&;,'\"]+"
    r"|(?<=://)[^\s/@]*(?=@)"
)


def redacted(text: str) -> str:
    """Return a text without what looks like a token or a password."""
    return _SECRETS.sub("***", text)


class Sparing(logging.Filter):
    """Let a bounded number of lines about others through."""

    def __init__(self, rate: float = RATE, burst: float = BURST) -> None:
        super().__init__()
        self.bucket = TokenBucket(rate, burst, time.monotonic())
        self.left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        about_others = any(hasattr(record, field) for field in OTHERS)
        if not about_others or record.levelno <= logging.DEBUG:
            return True  # who asks for DEBUG wants everything
        if not self.bucket.take(time.monotonic()):
            self.bucket.give_back()  # a line that is left out is free
            self.left_out += 1
            return False
        if self.left_out:
            record.left_out, self.left_out = self.left_out, 0
        return True


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, message, process, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": redacted(record.getMessage()),
            "process": record.process,
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, default=str)  # ASCII: no other line break, no escape


class TextFormatter(logging.Formatter):
    """The message, then what else is known as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = [f"{name}={_shown(value)}" for name, value in _extra(record).items()]
        level = record.levelname.lower()
        text = " ".join([f"{level}: {redacted(record.getMessage())}", *pairs])
        if record.exc_info:
            text += "\n" + redacted(self.formatException(record.exc_info))
        return text


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    found = {name: getattr(record, name, None) for name in FIELDS}
    return {
        name: redacted(value) if isinstance(value, str) else value
        for name, value in found.items()
        if value is not None
    }


def _shown(value: object) -> str:
    text = str(value)
    plain = re.fullmatch(r"[\w.:/@*+-]+", text)
    return text if plain else json.dumps(text)  # no line break, no forged pair


def start(form: str = "text", level: str = "", stream: TextIO | None = None) -> None:
    """Begin to log.

    Args:
        form: ``text`` or ``json``.
        level: The least that is said. By default warnings as text, for a person, who
            has read on standard output that the server listens; and info as JSON.
        stream: Where to; standard error unless given.

    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(Sparing())
    # Other libraries' lines take the same form, but no more of them than before.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    default = "info" if form == "json" else "warning"
    logging.getLogger("labserver").setLevel((level or default).upper())
