"""Published messages: as arguments of a Redis script, and as data of a channel.

One script (publish.lua) numbers, keeps and publishes all messages that one replica has
for a room in one tick of its loop.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from labserver.contract.messages import encode_json
from labserver.redis.commands import script
from labserver.redis.link import channel_of
from labserver.server.limits import TokenBucket
from labserver.server.parts import History

PUBLISH = script("numbering.lua", "publish.lua")
REFUSED, BEGAN, KEEPS = -1, 1, 2  # the script's first result: see publish.lua
CALL_SIZE = 2**18  # bytes of messages that one call carries
# Seconds that a room's numbering is kept after its last use, beside the history's ttl.
NUMBERING_TTL = 3600.0


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message that waits for its seq.

    Args:
        tail: The end of its JSON, from :func:`labserver.contract.messages.body`.
        user: The publisher.
        key: Idempotency key of that user, if there is one.
        begins: Bucket that pays if the publisher begins the room; None: it is free.
        stored: Done with the seq, or fails if the message is not stored.

    """

    tail: bytes
    user: str
    key: str | None
    begins: TokenBucket | None
    stored: asyncio.Future[int]

    @property
    def may_begin(self) -> bool:
        """Whether the publisher can pay for a new room."""
        return self.begins is None or self.begins.level >= 1.0


def portions(messages: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yield messages in order, in lists of at most ``CALL_SIZE`` bytes, or of one."""
    portion: list[Outgoing] = []
    size = 0
    for each in messages:
        size += len(each.tail)
        if portion and size > CALL_SIZE:
            yield portion
            portion, size = [], len(each.tail)
        portion.append(each)
    if portion:
        yield portion


def said(
    room: str,
    history: History,
    messages: Sequence[Outgoing],
    key_ttl: float,
    claim: tuple[str, int] = ("", 0),
) -> tuple[list[str], list[Any]]:
    """Return keys and arguments of the script ``PUBLISH``.

    Args:
        room: Name of the room.
        history: How much of the room is kept, and for how long.
        messages: The messages to publish.
        key_ttl: Seconds that their idempotency keys are kept.
        claim: See :class:`labserver.redis.seen.Seen`.

    """
    keys = keys_of(room)
    args: list[Any] = [
        secrets.token_hex(4),
        *claim,
        history.limit,
        ms(history.ttl),
        ms(NUMBERING_TTL + history.ttl),
        ms(key_ttl),
        int(any(each.may_begin for each in messages)),
    ]
    for each in messages:
        if each.key is not None:
            keys.append(key_of(room, each.user, each.key))
        args += (each.tail, 0 if each.key is None else len(keys))
    return keys, args


def fail(messages: Sequence[Outgoing], problem: BaseException) -> None:
    """Tell each publisher why its message was not stored."""
    for each in messages:
        each.stored.set_exception(problem)


def pay(messages: Sequence[Outgoing]) -> None:
    """Take one token, for the room that these messages began, from a publisher."""
    payer = next((each for each in messages if each.may_begin), messages[0])
    if payer.begins is not None:
        payer.begins.take(time.monotonic())


def tails(rest: bytes) -> Iterator[bytes]:
    """Yield the bodies in the data of a publish: length, space, body, space, ..."""
    start = 0
    while start < len(rest):
        space = rest.index(b" ", start)
        end = space + 1 + int(rest[start:space])
        yield rest[space + 1 : end]
        start = end + 1


def keys_of(room: str) -> list[str]:
    """Return the keys of a room's numbering and history, in one slot of a cluster."""
    numbering = channel_of(room)
    return [numbering, f"{numbering}:history"]


def ms(seconds: float) -> int:
    """Return seconds as whole milliseconds."""
    return round(seconds * 1000)


def key_of(room: str, user: str, key: str) -> str:
    """Return where the seq of a user's idempotency key is kept.

    It has 32 characters for user and key, which may hold any character.
    """
    digest = sha256(encode_json((user, key))).hexdigest()[:32]
    return f"{channel_of(room)}:key:{digest}"
