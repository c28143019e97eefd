"""The figures of a process, and their sum over all processes of a run.

Every process writes its own part, and the parts are added up. Percentiles cannot be
added, so they are computed from the sum only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Self

from labserver.load.figures.audit import Tally
from labserver.load.figures.everybody import Everybody
from labserver.load.figures.generator import Generator
from labserver.load.figures.histogram import Histogram
from labserver.load.figures.own import Figures
from labserver.load.figures.timeline import Slice

COUNTERS = ("users", "published", "problems", "unmeasured", "absent", "due")


@dataclass
class Record:
    """The figures of one process, or the sum of several.

    Names of ``latency`` and ``tallies`` are ``scenario/label``. In the groups of
    ``by_design``, late and missing messages are the scenario's subject. There, only
    losses without a gap, duplicates and a wrong order count against the run.
    """

    processes: int = 1
    wall: float = 0.0  # seconds from all members joined to the drain
    cpu: float = 0.0  # the busiest process's share of one core
    latency: dict[str, Histogram] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    by_design: set[str] = field(default_factory=set)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    slip: Histogram = field(default_factory=Histogram)  # from due to sent
    lag: Histogram = field(default_factory=Histogram)  # from arrival to read
    loop: Histogram = field(default_factory=Histogram)  # how late a timer ran
    users: Counter[str] = field(default_factory=Counter)  # by class
    published: Counter[str] = field(default_factory=Counter)  # by scenario
    notes: dict[str, str] = field(default_factory=dict)  # scenario -> a sentence
    unanswered: int = 0  # publishes without ack
    problems: Counter[str] = field(default_factory=Counter)  # sentences
    tops: dict[str, int] = field(default_factory=dict)  # newest seq of each numbering
    # Last seq of each group's members: numbering -> seq -> number of members. The
    # missing tail of each member is known only when all processes have reported what
    # was published.
    ends: dict[str, dict[str, Counter[int]]] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)  # by scenario
    everybody: dict[str, Everybody] = field(default_factory=dict)  # by scenario
    began: int = 0  # start of the run, monotonic ns
    slices: dict[int, Slice] = field(default_factory=dict)  # by number of the period
    # By scenario: messages that arrived while their reader stood still, so that their
    # latency is unknown.
    unmeasured: Counter[str] = field(default_factory=Counter)
    asked: int = 0  # users that were asked for; 0 if that changes
    joined: int = 0  # users that have been in their room
    # By group: users that tried, and never came into their room.
    absent: Counter[str] = field(default_factory=Counter)
    due: Counter[str] = field(default_factory=Counter)  # by room, sent or not
    late: int = 0  # due, and not sent because the generator was late
    generators: list[Generator] = field(default_factory=list)  # one a process

    def histogram(self, name: str) -> Histogram:
        return self.latency.setdefault(name, Histogram())

    def tally(self, group: str) -> Tally:
        return self.tallies.setdefault(group, Tally())

    def own(self, scenario: str) -> Figures:
        """Return the figures that are special to this scenario."""
        return self.figures.setdefault(scenario, Figures())

    def slowest(self, scenario: str) -> Everybody:
        """Return the slowest delivery of each message of this scenario."""
        return self.everybody.setdefault(scenario, Everybody())

    def ended(self, group: str, place: str, last: int) -> None:
        """Record the last seq of a member at the end of the run."""
        places = self.ends.setdefault(group, {})
        places.setdefault(place, Counter())[last] += 1

    def reached(self, place: str, seq: int) -> None:
        """Record that a numbering (of a room in an epoch) has reached ``seq``."""
        if seq > self.tops.get(place, 0):
            self.tops[place] = seq

    def add(self, other: Record) -> None:
        """Add the figures of other processes."""
        self.processes += other.processes
        self.wall = max(self.wall, other.wall)
        self.cpu = max(self.cpu, other.cpu)
        for name, histogram in other.latency.items():
            self.histogram(name).add(histogram)
        for group, tally in other.tallies.items():
            self.tally(group).__iadd__(tally)
        self.by_design |= other.by_design
        for group, outcomes in other.outcomes.items():
            self.outcomes.setdefault(group, Counter()).update(outcomes)
        self.slip.add(other.slip)
        self.lag.add(other.lag)
        self.loop.add(other.loop)
        self.users.update(other.users)
        self.published.update(other.published)
        self.notes.update(other.notes)
        self.unanswered += other.unanswered
        self.problems.update(other.problems)
        for room, seq in other.tops.items():
            self.reached(room, seq)
        for group, rooms in other.ends.items():
            for room, ends in rooms.items():
                self.ends.setdefault(group, {}).setdefault(room, Counter()).update(ends)
        for scenario, figures in other.figures.items():
            self.own(scenario).add(figures)
        for scenario, slowest in other.everybody.items():
            self.slowest(scenario).add(slowest)
        self.began = self.began or other.began
        for number, piece in other.slices.items():
            self.slices.setdefault(number, Slice()).add(piece)
        self.unmeasured.update(other.unmeasured)
        self.asked = max(self.asked, other.asked)
        self.joined += other.joined
        self.absent.update(other.absent)
        self.due.update(other.due)
        self.late += other.late
        self.generators += other.generators

    def count_tails(self) -> None:
        """Count, for each member, the messages published after its last one."""
        for group, rooms in self.ends.items():
            for room, ends in rooms.items():
                top = self.tops.get(room, 0)
                for last, members in ends.items():
                    missed = max(0, top - last) * members
                    self.tally(group).missed_tail(missed, group in self.by_design)
                unpublished = self.unpublished(room) * ends.total()
                self.tally(group).unpublished += unpublished
                self.tally(group).expected += unpublished
        self.ends.clear()

    def unpublished(self, place: str) -> int:
        """Return how many messages of a room were due and did not get a number."""
        room = place.partition(" ")[0]
        numbered = sum(
            top for each, top in self.tops.items() if each.partition(" ")[0] == room
        )
        return max(0, self.due[room] - numbered)

    def scenarios(self) -> list[str]:
        names = {name.partition("/")[0] for name in [*self.tallies, *self.latency]}
        return sorted(names | set(self.published))

    def delivered(self) -> int:
        return sum(tally.delivered for tally in self.tallies.values())

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        data["latency"] = {k: v.as_json() for k, v in self.latency.items()}
        data["tallies"] = {k: v.as_json() for k, v in self.tallies.items()}
        data["by_design"] = sorted(self.by_design)
        data["outcomes"] = {k: dict(v) for k, v in self.outcomes.items()}
        for name in ("slip", "lag", "loop"):
            data[name] = data[name].as_json()
        for name in COUNTERS:
            data[name] = dict(data[name])
        data["ends"] = {
            group: {room: sorted(ends.items()) for room, ends in rooms.items()}
            for group, rooms in self.ends.items()
        }
        for name in ("figures", "everybody"):
            data[name] = {k: v.as_json() for k, v in getattr(self, name).items()}
        data["slices"] = [[n, each.as_json()] for n, each in self.slices.items()]
        data["generators"] = [each.as_json() for each in self.generators]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        data = dict(data)
        data["latency"] = {
            k: Histogram.from_json(v) for k, v in data["latency"].items()
        }
        data["tallies"] = {k: Tally(**v) for k, v in data["tallies"].items()}
        data["by_design"] = set(data["by_design"])
        data["outcomes"] = {k: Counter(v) for k, v in data["outcomes"].items()}
        for name in ("slip", "lag", "loop"):
            data[name] = Histogram.from_json(data[name])
        for name in COUNTERS:
            data[name] = Counter(data[name])
        data["ends"] = {
            group: {room: Counter(dict(ends)) for room, ends in rooms.items()}
            for group, rooms in data["ends"].items()
        }
        data["figures"] = {k: Figures.from_json(v) for k, v in data["figures"].items()}
        data["everybody"] = {
            k: Everybody.from_json(v) for k, v in data["everybody"].items()
        }
        data["slices"] = {n: Slice.from_json(each) for n, each in data["slices"]}
        data["generators"] = [Generator(**each) for each in data["generators"]]
        return cls(**data)


def merged(parts: Iterable[Record]) -> Record:
    """Return the sum of all parts, with the tails counted."""
    whole = Record(processes=0)
    for part in parts:
        whole.add(part)
    whole.count_tails()
    return whole
