"""The server's log, on standard error: text, or one JSON object a line.

The log contains no token. Code that logs has no tokens, the library's own lines (which
quote requests) are off, and text that looks like a token all the same is replaced.

Peers decide how often connections end, and how often a full Redis refuses. They must
not be able to fill a disk: after a burst, at most ``RATE`` lines a second are about
connections and servers. The next line says how many were left out; the metrics count
all events.
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

RATE, BURST = 20.0, 100.0  # lines about peers: a second, and at once
OTHERS = ("connection", "address", "redis")  # a line with such a field is about a peer
# The fields that a line may have beside its message, given as ``extra``.
FIELDS = (
    *("connection", "user", "address", "code", "reason", "status", "detail"),
    *("url", "stage", "replica", "connections", "worker", "redis", "left_out"),
)
# A JWT, and any text in the place of a token or a password.
_SECRETS = re.compile(
    r"eyJ[\w-]*\.[\w-]*\.[\w-]*"
    r"|(?i:(?<=[?&]token=)|(?<=lab_token=)|(?<=bearer[ .]))[^\s&;,'\"]+"
    r"|(?<=://)[^\s/@]*(?=@)"
)


def redacted(text: str) -> str:
    """Return a text in which ``***`` replaces all that looks like a secret."""
    return _SECRETS.sub("***", text)


class Sparing(logging.Filter):
    """Limits the rate of lines about peers.

    Args:
        rate: Lines a second.
        burst: Lines at once.

    """

    def __init__(self, rate: float = RATE, burst: float = BURST) -> None:
        super().__init__()
        self.bucket = TokenBucket(rate, burst, time.monotonic())
        self.left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        about_others = any(hasattr(record, field) for field in OTHERS)
        if not about_others or record.levelno <= logging.DEBUG:
            return True  # DEBUG is off unless somebody wants every line
        if not self.bucket.take(time.monotonic()):
            self.bucket.give_back()  # a line that is left out costs no token
            self.left_out += 1
            return False
        if self.left_out:
            record.left_out, self.left_out = self.left_out, 0
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message, process and the other fields."""

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
        return json.dumps(line, default=str)  # ASCII, so no line break of Unicode


class TextFormatter(logging.Formatter):
    """The level and message, then the other fields as ``name=value``."""

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
    return text if plain else json.dumps(text)  # a value can forge no line or field


def start(form: str = "text", level: str = "", stream: TextIO | None = None) -> None:
    """Begin to log.

    Args:
        form: ``text`` or ``json``.
        level: The lowest level that is logged. By default ``info`` for JSON, and
            ``warning`` for text: its reader sees on standard output that the server
            listens.
        stream: Where the lines go; standard error unless given.

    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(Sparing())
    # Other libraries' lines get the same form, at their usual level.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    default = "info" if form == "json" else "warning"
    logging.getLogger("labserver").setLevel((level or default).upper())
