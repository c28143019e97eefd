"""What is published to a room, as a Redis script takes it and as a channel brings it.

One script (publish.lua) numbers, keeps and publishes all that one replica has for a
room in one tick.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from labserver.contract.messages import encode_json
from labserver.redis.commands import script
from labserver.redis.link import channel_of
from labserver.server.parts import KEY_TTL, History

PUBLISH = script("numbering.lua", "publish.lua")
# Seconds that a room's numbering outlives its last use, and what it remembers of it.
NUMBERING_TTL = 3600.0


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message that waits for its seq.

    Args:
        tail: What its publisher decides.
        user: The publisher.
        key: Idempotency key of that user, if there is one.
        stored: Takes the seq.

    """

    tail: bytes
    user: str
    key: str | None
    stored: asyncio.Future[int]


def said(
    room: str, history: History, messages: Sequence[Outgoing]
) -> tuple[list[str], list[Any]]:
    """Return keys and arguments of the script."""
    keys = keys_of(room)
    args: list[Any] = [
        secrets.token_hex(4),
        history.limit,
        ms(history.ttl),
        ms(NUMBERING_TTL + history.ttl),
        ms(KEY_TTL),
    ]
    for each in messages:
        if each.key is not None:
            keys.append(f"{keys[0]}:key:{_digest(each.user, each.key)}")
        args += (each.tail, 0 if each.key is None else len(keys))
    return keys, args


def tails(rest: bytes) -> Iterator[bytes]:
    """Yield the message bodies of a publish: length, space, body, space, ..."""
    start = 0
    while start < len(rest):
        space = rest.index(b" ", start)
        end = space + 1 + int(rest[start:space])
        yield rest[space + 1 : end]
        start = end + 1


def keys_of(room: str) -> list[str]:
    """Return the keys of a room, in one slot of a cluster."""
    numbering = channel_of(room)
    return [numbering, f"{numbering}:history"]


def ms(seconds: float) -> int:
    return round(seconds * 1000)


def _digest(user: str, key: str) -> str:
    """Return 32 characters for a key of a user, which may hold any separator."""
    return sha256(encode_json((user, key))).hexdigest()[:32]
