"""What was sent and received while a check ran: who, when, which words.

A check does not carry it about: its clients note what they do with :func:`note`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

EVENTS_LIMIT = 2000
TEXT_LIMIT = 160  # characters


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        at: Seconds since the check began.
        who: Name of a client, or of the judge.
        way: ``sent``, ``received`` or ``did``.
        text: The message, cut to its beginning, or what was done.

    """

    at: float
    who: str
    way: str
    text: str


class Evidence:
    """The newest events of one check."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.events: deque[Event] = deque(maxlen=EVENTS_LIMIT)

    def add(self, who: str, way: str, text: str) -> None:
        at = round(time.monotonic() - self.began, 4)
        self.events.append(Event(at, who, way, text[:TEXT_LIMIT]))


_current: ContextVar[Evidence | None] = ContextVar("evidence", default=None)


@contextmanager
def gathered() -> Iterator[Evidence]:
    """Gather what clients note, also in tasks that begin inside the block."""
    evidence = Evidence()
    token = _current.set(evidence)
    try:
        yield evidence
    finally:
        _current.reset(token)


def note(who: str, way: str, text: str) -> None:
    """Note an event, if anybody gathers them."""
    evidence = _current.get()
    if evidence is not None:
        evidence.add(who, way, text)
