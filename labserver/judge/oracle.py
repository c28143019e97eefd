"""The oracle: told what a client saw, it says what went wrong.

Pure. It holds a client's view of one room against the contract: every seq of an epoch
once, in order, and every hole announced by a ``gap`` or by a ``joined`` that says that
nothing was recovered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Verdict:
    """What one client experienced, as lists of (room, epoch, seq).

    ``gaps`` were announced, and so are no fault of the protocol; the other lists are.
    """

    received: int = 0
    duplicated: list[tuple[str, str, int]] = field(default_factory=list)
    reordered: list[tuple[str, str, int]] = field(default_factory=list)
    unsignalled: list[tuple[str, str, int]] = field(default_factory=list)
    gaps: list[tuple[str, str, int]] = field(default_factory=list)
    altered: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing happened that the client was not told."""
        faults = (self.duplicated, self.reordered, self.unsignalled, self.altered)
        return not any(faults)

    def __str__(self) -> str:
        return (
            f"received {self.received}, duplicated {len(self.duplicated)}, "
            f"reordered {len(self.reordered)}, "
            f"unsignalled gaps {len(self.unsignalled)}, altered {len(self.altered)}, "
            f"announced gaps {len(self.gaps)}"
        )


class _View:
    """What a client knows of one room in one epoch."""

    def __init__(self, epoch: str, seq: int) -> None:
        self.epoch = epoch
        self.next = seq + 1  # 0: whatever comes first
        self.seen: set[int] = set()
        self.holes: set[int] = set()


class Oracle:
    """Watches what one client is sent, over all of its connections.

    Feed it every decoded message, in the order of arrival. After a reconnect, the
    ``joined`` answers say where each room stands.
    """

    def __init__(self) -> None:
        self.verdict = Verdict()
        self._views: dict[str, _View] = {}
        self._payloads: dict[tuple[str, str, int], Any] = {}

    def saw(self, message: Mapping[str, Any]) -> None:
        """Take note of one message of the server."""
        match message.get("type"):
            case "joined":
                self._joined(message)
            case "message":
                self._message(message)
            case "gap":
                self._gap(message)

    def cursor(self, room: str) -> dict[str, Any] | None:
        """Return what this client would name as ``after`` when it joins again."""
        view = self._views.get(room)
        if view is None or not view.next:
            return None
        return {"epoch": view.epoch, "seq": view.next - 1}

    def payloads(self) -> dict[tuple[str, str, int], Any]:
        """Return what arrived, by (room, epoch, seq)."""
        return dict(self._payloads)

    def _joined(self, message: Mapping[str, Any]) -> None:
        room, epoch, seq = message["room"], message["epoch"], message["seq"]
        view = self._views.get(room)
        if message["recovered"] and view is not None:
            # What was missed follows, and goes on where the view stands.
            if view.epoch != epoch:
                self._views[room] = _View(epoch, view.next - 1)
            return
        if view is not None and view.epoch == epoch:
            # The client is told where the room stands: the hole is announced.
            self._announce(room, view, view.next, seq)
        elif message["recovered"]:
            # It names a cursor of a former life, which nobody told the oracle.
            self._views[room] = _View(epoch, -1)
        else:
            self._views[room] = _View(epoch, seq)

    def _message(self, message: Mapping[str, Any]) -> None:
        room, seq = message["room"], message["seq"]
        view = self._views.get(room)
        if view is None:
            # A client that was not told where the room stands starts here.
            view = self._views[room] = _View("", seq - 1)
        place = (room, view.epoch, seq)
        self.verdict.received += 1
        view.next = view.next or seq
        if seq in view.seen:
            self.verdict.duplicated.append(place)
            if self._payloads[place] != message.get("payload"):
                self.verdict.altered.append(place)
            return
        view.seen.add(seq)
        self._payloads[place] = message.get("payload")
        if seq < view.next:
            self.verdict.reordered.append(place)
            if seq in view.holes:
                view.holes.discard(seq)
                self.verdict.unsignalled.remove(place)
            return
        for hole in range(view.next, seq):
            view.holes.add(hole)
            self.verdict.unsignalled.append((room, view.epoch, hole))
        view.next = seq + 1

    def _gap(self, message: Mapping[str, Any]) -> None:
        room = message["room"]
        view = self._views.setdefault(room, _View("", message["from"] - 1))
        self._announce(room, view, message["from"], message["to"])

    def _announce(self, room: str, view: _View, first: int, last: int) -> None:
        for seq in range(first, last + 1):
            if seq not in view.seen:
                self.verdict.gaps.append((room, view.epoch, seq))
        for hole in range(view.next or first, first):
            view.holes.add(hole)
            self.verdict.unsignalled.append((room, view.epoch, hole))
        view.next = max(view.next, last + 1)


def lost(oracle: Oracle, room: str, acknowledged: Iterable[int]) -> list[int]:
    """Return the acknowledged seqs of a room that a client neither got nor was told of.

    This is what finds a loss at the tail, which no later message betrays.
    """
    seen = {seq for name, _, seq in oracle.payloads() if name == room}
    told = {seq for name, _, seq in oracle.verdict.gaps if name == room}
    return sorted(set(acknowledged) - seen - told)


def disagreements(oracles: Iterable[Oracle]) -> list[tuple[str, str, int]]:
    """Return the places where two clients were given different messages."""
    first: dict[tuple[str, str, int], Any] = {}
    wrong = []
    for oracle in oracles:
        for place, payload in oracle.payloads().items():
            if first.setdefault(place, payload) != payload:
                wrong.append(place)
    return wrong
