"""What was sent and received while a check ran: who, when, which words.

A check does not carry it about: its clients note what they do with :func:`note`.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

EVENTS_LIMIT = 2000
DONE_LIMIT = 200  # a stop that came long before the messages explains them
JUDGE = "the judge"  # does what befalls all clients, such as a fault of the network
TEXT_LIMIT = 160  # characters
# Padding, which says nothing after its third character.
_REPEATED = re.compile(r"(.)\1{15,}")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        at: Seconds since the check began.
        who: Name of a client, or of the judge.
        way: ``opened``, ``sent``, ``received`` or ``did``.
        text: The message, cut to its beginning, or what was opened or done.

    """

    at: float
    who: str
    way: str
    text: str

    def __str__(self) -> str:
        way = "" if self.way == "did" else f"{self.way} "
        return f"{self.who} {way}{self.text}"


class Evidence:
    """The newest messages of one check, and the first things that were done."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.said: deque[Event] = deque(maxlen=EVENTS_LIMIT)
        self.done: list[Event] = []
        self.asked: dict[tuple[str, str], str] = {}  # who and ref, to the type

    def add(self, who: str, way: str, text: str) -> None:
        at = round(time.monotonic() - self.began, 6)
        if way in ("sent", "received") and '"ref"' in text:
            self._match(who, way, text)
        event = Event(at, who, way, _short(text))
        if way != "did":
            self.said.append(event)
        elif len(self.done) < DONE_LIMIT:
            self.done.append(event)

    @property
    def events(self) -> list[Event]:
        """All of them, in the order of time."""
        return sorted([*self.said, *self.done], key=lambda event: event.at)

    def _match(self, who: str, way: str, text: str) -> None:
        """Note a request as open, or as answered."""
        try:
            message = json.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict) or message.get("ref") is None:
            return
        key = who, json.dumps(message["ref"])
        if way == "sent":
            self.asked[key] = str(message.get("type"))
        else:
            self.asked.pop(key, None)

    def instead(self) -> str:
        """Return what came, and which answer is missing, where a wait was in vain."""
        parts = [
            f"no answer to {kind} of {who} with ref {ref}"
            for (who, ref), kind in list(self.asked.items())[-2:]
        ]
        came = [each for each in self.said if each.way == "received"]
        parts += [f"the last that came, to {e.who}: {e.text}" for e in came[-1:]]
        return "; ".join(parts if came else [*parts, "nothing came at all"])


def _short(text: str) -> str:
    """Return a text that fits a line; what is cut ends in an ellipsis."""
    folded = _REPEATED.sub(lambda found: found[1] * 3 + "…", text[: 4 * TEXT_LIMIT])
    if len(text) <= 4 * TEXT_LIMIT and len(folded) <= TEXT_LIMIT:
        return folded or '""'
    return folded[: TEXT_LIMIT - 1].rstrip("…") + "…"


def folded(events: Iterable[Event], turns: int = 3) -> list[tuple[Event, int]]:
    """Return the events, and how many each stands for.

    Of what repeats, alone or in turns of up to ``turns``, the last one is left.
    """
    rows: list[tuple[Event, int]] = []
    for event in events:
        for back in range(1, min(turns, len(rows)) + 1):
            last, count = rows[-back]
            if _kind(last) == _kind(event):
                rows[-back] = (event, count + 1)
                break
            if event.way != "did" and last.way == "did":
                rows.append((event, 1))  # what came after it did not come before it
                break
        else:
            rows.append((event, 1))
    return rows


def _kind(event: Event) -> tuple[str, str, str]:
    return event.who, event.way, event.text[:24]


def weighty(event: Event, seen: str) -> bool:
    """Return whether a check did this, or what was seen names its client."""
    return event.way == "did" or event.who in seen.replace(",", " ").split()


def shown(events: Sequence[Event], seen: str, limit: int) -> list[tuple[Event, int]]:
    """Return the rows that a reader needs: at most ``limit``, in their order.

    Pings, ends, what a check did, and the clients that ``seen`` names come before the
    newest of the others.
    """
    rows = folded(events, turns=64)  # as many clients speak by turns
    rows.sort(key=lambda row: row[0].at)

    def weighs(at: int) -> tuple[bool, int]:
        event = rows[at][0]
        told = event.text.startswith(("ping", "pong", "close", "the end"))
        return told or weighty(event, seen), at

    kept = sorted(range(len(rows)), key=weighs, reverse=True)[:limit]
    return [rows[at] for at in sorted(kept)]


def fault(text: str) -> None:
    """Note what the judge did to the servers or to their network."""
    note(JUDGE, "did", text)


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
