"""What happens in one simulated world: how many take part, and which faults come when.

A scenario follows from its seed. It can be written as JSON, changed, and run again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

SECONDS = 30.0  # of virtual time in which faults come
CLUSTERS = 0.25  # part of the worlds whose Redis is a cluster
# How often each fault is chosen, by the name of a method of ``Faults``.
WEIGHTS = {
    "cut_client": 6,
    "cut_handshake": 2,
    "freeze_client": 3,
    "vanish_client": 2,
    "part_client": 2,
    "cut_link": 6,
    "deafen_link": 3,
    "part_redis": 3,
    "kill_replica": 3,
    "drain_replica": 2,
    "freeze_replica": 2,
    "freeze_redis": 2,
    "empty_redis": 2,
    "old_redis": 1,
    "fail_over": 2,
    "fail_back": 2,
    "stall_replication": 2,
    "flush_scripts": 2,
}
# Those that only a cluster knows; its servers have the others, too.
SLOT_WEIGHTS = {"move_slot": 4, "part_node": 4, "kill_node": 2}
WIPING = {"empty_redis", "old_redis"}  # against these no replica helps


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        at: Seconds after the beginning.
        name: Its name in ``WEIGHTS``.
        whom: Number of the client or replica that it befalls, modulo their count.
        seconds: How long it lasts.
        part: How much of it there is, from 0 to 1: of a journal that is lost, or of
            five seconds that replication lags.

    """

    at: float
    name: str
    whom: int = 0
    seconds: float = 1.0
    part: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """One world.

    Args:
        seed: What all of its chances begin with.
        replicas: Number of servers.
        clients: Number of clients.
        rooms: Number of rooms.
        seconds: How long faults come and clients publish.
        after: How long clients go on to publish after that.
        disorder: See :class:`~labserver.simulated.loop.VirtualLoop`.
        mistake: Name of a mistake of :mod:`labserver.mistakes`, or ``""``.
        history: Messages that a room keeps.
        pause: Seconds that a client waits between two publishes, on average.
        narrow: Whether windows and buffers are small, so that they fill.
        confirm: Whether a message is acknowledged when the replica of Redis has it.
        cluster: Whether Redis is a cluster.
        faults: The faults, the earliest first.

    """

    seed: str
    replicas: int = 2
    clients: int = 6
    rooms: int = 2
    seconds: float = SECONDS
    after: float = 3.0
    disorder: float = 1.0
    mistake: str = ""
    history: int = 200
    pause: float = 1.0
    narrow: bool = False
    confirm: bool = False
    cluster: bool = False
    faults: tuple[Fault, ...] = ()

    def to_json(self) -> str:
        data = msgspec.json.format(msgspec.json.encode(self), indent=2)
        return data.decode() + "\n"


def from_json(text: str | bytes) -> Scenario:
    """Return a scenario that was written before. Raises msgspec.ValidationError."""
    return msgspec.json.decode(text, type=Scenario)


def drawn(
    seed: str, mistake: str = "", kinds: Sequence[str] = (), **fixed: Any
) -> Scenario:
    """Return the scenario of a seed.

    Args:
        seed: Any text.
        mistake: See :class:`Scenario`.
        kinds: Names of the faults that may happen; a few of all unless given.
        fixed: Attributes that do not follow from the seed.

    """
    dice = random.Random(f"{seed}/scenario")
    confirm = bool(fixed.get("confirm", dice.random() < 0.3))
    often = random.Random(f"{seed}/cluster").random() < CLUSTERS
    cluster = bool(fixed.get("cluster", often))
    # Few kinds of faults at a time: many at once hide each other.
    weights = WEIGHTS | (SLOT_WEIGHTS if cluster else {})
    some = dice.sample(sorted(weights), dice.randint(1, 6))
    kinds = kinds or some
    if confirm:
        kinds = sorted({"fail_over", *kinds} - WIPING)
    between = dice.choice((0.5, 1.5, 4.0))
    faults, at = [], 0.0
    while (at := at + dice.expovariate(1 / between)) < SECONDS:
        (name,) = dice.choices(kinds, [weights[kind] for kind in kinds])
        seconds = dice.choice((0.01, 0.3, 1.0, 3.0, 8.0)) * dice.uniform(0.5, 1.5)
        part = dice.choice((0.0, 0.02, 0.2, 0.4))
        faults.append(
            Fault(round(at, 3), name, dice.randrange(60), round(seconds, 3), part)
        )
    chosen: dict[str, Any] = {
        "replicas": dice.randint(1, 3),
        "clients": dice.randint(3, 20),  # or many, see below
        "rooms": dice.randint(1, 3),
        "history": dice.choice((5, 200)),
        "pause": dice.choice((0.5, 2.0, 5.0, 10.0)),
        "narrow": dice.random() < 0.3,
        "confirm": confirm,
        "cluster": cluster,
        "after": dice.choice((0.0, 3.0)),
        "faults": tuple(faults),
    }
    if dice.random() < 0.4:
        # Many that say little: in a quiet room no next message uncovers a hole.
        chosen |= {"clients": dice.randint(20, 60), "pause": 10.0}
    return Scenario(seed, mistake=mistake, **(chosen | fixed))
