"""The oracle: checks the messages that a client received against the contract.

It does no I/O. The contract: in each room, every seq of an epoch comes once and in
order, and every hole is announced by a ``gap``, or by a ``joined`` with ``recovered``
false.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Verdict:
    """What happened to one client's messages, as lists of (room, epoch, seq).

    ``gaps`` were announced, and so are no faults; all others are faults.
    """

    received: int = 0
    duplicated: list[tuple[str, str, int]] = field(default_factory=list)
    reordered: list[tuple[str, str, int]] = field(default_factory=list)
    unsignalled: list[tuple[str, str, int]] = field(default_factory=list)
    gaps: list[tuple[str, str, int]] = field(default_factory=list)
    altered: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether there are no faults."""
        faults = (self.duplicated, self.reordered, self.unsignalled, self.altered)
        return not any(faults)

    def __str__(self) -> str:
        counts = {
            "duplicated": self.duplicated,
            "reordered": self.reordered,
            "unsignalled gaps": self.unsignalled,
            "altered": self.altered,
            "announced gaps": self.gaps,
        }
        found = [f"{name} {len(places)}" for name, places in counts.items() if places]
        return ", ".join([f"received {self.received}", *found])


class _View:
    """The state of a client in one room and epoch."""

    def __init__(self, epoch: str, seq: int) -> None:
        self.epoch = epoch
        self.next = seq + 1  # 0: any seq may come first
        self.seen: set[int] = set()
        self.holes: set[int] = set()


class Oracle:
    """Watches the messages of one client, over all of its connections.

    Call :meth:`saw` with every decoded message, in the order of arrival, also with the
    ``joined`` after a reconnect.
    """

    def __init__(self) -> None:
        self.verdict = Verdict()
        self._views: dict[str, _View] = {}
        self._payloads: dict[tuple[str, str, int], Any] = {}

    def saw(self, message: Mapping[str, Any]) -> None:
        """Record one message of the server."""
        match message.get("type"):
            case "joined":
                self._joined(message)
            case "message":
                self._message(message)
            case "gap":
                self._gap(message)

    def cursor(self, room: str) -> dict[str, Any] | None:
        """Return the client's cursor for ``after`` in its next join, or None."""
        view = self._views.get(room)
        if view is None or not view.next:
            return None
        return {"epoch": view.epoch, "seq": view.next - 1}

    def payloads(self) -> dict[tuple[str, str, int], Any]:
        """Return the payloads that arrived, by (room, epoch, seq)."""
        return dict(self._payloads)

    def _joined(self, message: Mapping[str, Any]) -> None:
        room, epoch, seq = message["room"], message["epoch"], message["seq"]
        view = self._views.get(room)
        if message["recovered"] and view is not None:
            # Missed messages follow, and continue after the newest one.
            if view.epoch != epoch:
                self._views[room] = _View(epoch, view.next - 1)
            return
        if view is not None and view.epoch == epoch:
            # The client is told the room's seq: that announces the hole.
            self._announce(room, view, view.next, seq)
        elif message["recovered"]:
            # The client named a cursor that the oracle does not know.
            self._views[room] = _View(epoch, -1)
        else:
            self._views[room] = _View(epoch, seq)

    def _message(self, message: Mapping[str, Any]) -> None:
        room, seq = message["room"], message["seq"]
        view = self._views.get(room)
        if view is None:
            # A client without a ``joined`` starts here.
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
    """Return acknowledged seqs of a room that were neither delivered nor announced
    lost.

    This also finds losses at the end, which no later message shows.
    """
    seen = {seq for name, _, seq in oracle.payloads() if name == room}
    told = {seq for name, _, seq in oracle.verdict.gaps if name == room}
    return sorted(set(acknowledged) - seen - told)


def disagreements(oracles: Iterable[Oracle]) -> list[tuple[str, str, int]]:
    """Return the places where two clients got different payloads."""
    first: dict[tuple[str, str, int], Any] = {}
    wrong = []
    for oracle in oracles:
        for place, payload in oracle.payloads().items():
            if first.setdefault(place, payload) != payload:
                wrong.append(place)
    return wrong
