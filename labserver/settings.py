"""Settings: one frozen dataclass. Variables ``LAB_*`` and flags are generated from it.

Durations are in seconds, sizes in bytes; 0 turns a limit off.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from labserver.errors import SettingsError

SECRET_FILE = "LAB_SECRET_FILE"
PASSWORD_FILE = "LAB_REDIS_PASSWORD_FILE"
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
POLICIES = ("disconnect", "drop-newest", "drop-oldest", "conflate")


def _setting(default: Any, help: str, **metadata: Any) -> Any:
    shown = not metadata.get("secret")
    return field(default=default, repr=shown, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class Settings:
    """Everything that can be chosen about a server."""

    secret: str = _setting("", "Signs and checks tokens.", secret=True)
    redis: str = _setting(
        "",
        "Redis URL for the stages broker and resume; without it the server starts "
        "a Redis of its own.",
        variable="LAB_REDIS_URL",
        secret=True,
    )
    replica: str = _setting("", "This server's name in hello; default: made up.")
    heartbeat_interval: float = _setting(25.0, "Seconds between two pings.", least=0.1)
    outbox_limit: int = _setting(
        2**20, "Bytes that may wait for one slow reader, and bytes of one replay."
    )
    outbox_policy: str = _setting(
        "disconnect", "What a full outbox does.", choices=POLICIES
    )
    stuck_timeout: float = _setting(
        10.0, "Seconds without any progress after which a reader is cut off."
    )
    drain_timeout: float = _setting(10.0, "Seconds that SIGTERM leaves for goodbyes.")
    handshake_timeout: float = _setting(
        10.0, "Seconds in which a handshake must be over.", least=0.01
    )
    history_limit: int = _setting(1000, "Messages that a room remembers.", least=1)
    history_ttl: float = _setting(
        300.0, "Seconds that a room remembers a message.", least=0.1
    )
    confirm_replicas: int = _setting(
        0,
        "Replicas of Redis that must have a message before it is acknowledged.",
        most=100,
    )
    message_size_limit: int = _setting(65536, "Bytes of one incoming message.")
    message_rate_limit: float = _setting(
        1000.0, "Messages a second from one connection; bursts of twice that."
    )
    rooms_limit: int = _setting(
        128,
        "Rooms that one connection may be in; also new rooms a minute that one user "
        "may publish to without anybody in them.",
    )
    connection_limit: int = _setting(0, "Connections to this process.")
    address_limit: int = _setting(0, "Connections from one address.")
    admission_rate: float = _setting(0.0, "Handshakes a second.")
    origins: tuple[str, ...] = _setting(
        (), "Origins that browsers may come from beside the same host; comma-separated."
    )
    send_buffer: int = _setting(
        0, "SO_SNDBUF of each connection; 0 leaves the kernel's choice."
    )
    gc_pause_limit: float = _setting(
        0.005,
        "Seconds that a garbage collection may stop the server; 0 leaves Python's "
        "collector as it is.",
    )
    sse_port: int | None = _setting(
        None,
        "Port for server-sent events, long polls and publishing by POST; 0 for a free "
        "one.",
        kind=int,
        most=65535,
    )

    trusted_proxies: tuple[str, ...] = _setting(
        (),
        "Addresses and networks whose X-Forwarded-For is believed; comma-separated.",
    )
    tls_cert: str = _setting("", "Certificate chain, a PEM file: wss instead of ws.")
    tls_key: str = _setting("", "Its private key, a PEM file without a password.")
    log_format: str = _setting(
        "text", "What lines on standard error look like.", choices=LOG_FORMATS
    )
    log_level: str = _setting(
        "",
        "The least that is logged. Default warning, info as JSON.",
        choices=("", *LOG_LEVELS),
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            problem = _problem(each, getattr(self, each.name))
            if problem:
                raise SettingsError(f"{flag(each)} ({variable(each)}) {problem}")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise SettingsError(
                "--tls-cert and --tls-key (LAB_TLS_CERT, LAB_TLS_KEY) need each other"
            )


def variable(setting: Field[Any]) -> str:
    """Return the environment variable of a setting."""
    name = setting.metadata.get("variable", f"LAB_{setting.name.upper()}")
    return str(name)


def kind(setting: Field[Any]) -> type:
    """Return the type of a setting's value."""
    found: type = setting.metadata.get("kind", type(setting.default))
    return found


def flag(setting: Field[Any]) -> str:
    """Return the command-line flag of a setting."""
    return "--" + setting.name.replace("_", "-")


def from_environment(
    environment: Mapping[str, str] = os.environ, **given: Any
) -> Settings:
    """Return settings: what is ``given``, else ``LAB_*``, else the default.

    Raises:
        SettingsError: A value cannot be used; the message names the variable.

    """
    values = dict(given)
    for each in fields(Settings):
        text = environment.get(variable(each))
        if each.name not in values and text is not None:
            values[each.name] = parse(each, text)
    values.setdefault("secret", "")
    values["secret"] = values["secret"] or secret_of(environment)
    if values.get("redis"):
        values["redis"] = with_password(values["redis"], environment)
    return Settings(**values)


def secret_of(environment: Mapping[str, str] = os.environ) -> str:
    """Return ``LAB_SECRET``, else the text of the file that ``LAB_SECRET_FILE`` names.

    A file is how Docker and Kubernetes hand a secret over: an environment is seen by
    every program that a server starts. White space around the text is not part of it.

    Raises:
        SettingsError: The file cannot be read, or is empty.

    """
    secret = environment.get("LAB_SECRET", "")
    return secret or _read(SECRET_FILE, environment)


def with_password(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a Redis URL with the password of ``LAB_REDIS_PASSWORD_FILE``.

    A URL that has a password keeps it.

    Raises:
        SettingsError: The file cannot be read, or is empty.

    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url  # who uses it says what is wrong
    user, _, hosts = parts.netloc.rpartition("@")
    if ":" in user or not (password := _read(PASSWORD_FILE, environment)):
        return url
    netloc = f"{user}:{quote(password, safe='')}@{hosts}"
    return parts._replace(netloc=netloc).geturl()


def _read(variable: str, environment: Mapping[str, str]) -> str:
    """Return the text of the file that a variable names; without one, nothing."""
    name = environment.get(variable, "")
    if not name:
        return ""
    try:
        text = Path(name).read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        why = getattr(exc, "strerror", None) or "it is not text"
        raise SettingsError(f"{variable} cannot be read: {name}: {why}") from None
    if not text:
        raise SettingsError(f"{variable} names an empty file: {name}")
    return text


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the ``LAB_*`` variables that mean nothing: a typing error, most often."""
    known = {variable(each) for each in fields(Settings)} | {
        SECRET_FILE,
        PASSWORD_FILE,
        "LAB_TOKEN",
        "LAB_REPLICAS",
        "LAB_STAGE",
        "LAB_LOAD_HOSTS",
    }
    return [
        each for each in environment if each.startswith("LAB_") and each not in known
    ]


def parse(setting: Field[Any], text: str) -> Any:
    """Return the value that ``text`` means for ``setting``.

    Raises:
        SettingsError: It is not a number where one is needed.

    """
    make: Callable[[str], Any] = kind(setting)
    if make is str:
        return text
    if make is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    try:
        return make(text)
    except ValueError:
        what = "a whole number" if make is int else "a number"
        raise SettingsError(
            f"{flag(setting)} ({variable(setting)}) must be {what}, not {text[:40]!r}"
        ) from None


def _problem(setting: Field[Any], value: Any) -> str | None:
    if value is None and setting.default is None:
        return None
    if kind(setting) in (int, float):
        least = setting.metadata.get("least", 0)
        most = setting.metadata.get("most", 2**31 - 1 if kind(setting) is int else 1e9)
        if not math.isfinite(value) or not least <= value <= most:
            return f"must be from {least} to {most:.10g}, not {value}"
    choices = setting.metadata.get("choices")
    if choices and value not in choices:
        return f"must be one of {', '.join(filter(None, choices))}, not {value!r}"
    if setting.name == "redis" and value and not _REDIS_URL.match(value):
        return "must start with redis://, rediss://, unix:// or redis+cluster://"
    if setting.name == "redis" and _NO_DATABASE.match(value):
        return "must end in the number of a database, such as /0"
    if setting.name == "origins" and not all(map(_ORIGIN.match, value)):
        return "must be origins such as https://example.com, comma-separated"
    if setting.name == "trusted_proxies":
        try:
            [ip_network(each, strict=False) for each in value]
        except ValueError as exc:
            return f"must be addresses or networks, comma-separated: {exc}"
    return None


_ORIGIN = re.compile(r"\A(null|[a-zA-Z][a-zA-Z0-9+.-]*://[^/*?#@\s]+)\Z")
_REDIS_URL = re.compile(r"(unix|rediss?(\+cluster)?)://.")
# The library takes database 0 for any path that is not a number.
_NO_DATABASE = re.compile(r"rediss?://[^/?#]*/(?![0-9]*([?#]|\Z))")
