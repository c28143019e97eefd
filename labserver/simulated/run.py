"""Runs one scenario from its beginning to its verdict."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from labserver.judge.evidence import Event
from labserver.simulated import audit
from labserver.simulated.faults import Faults
from labserver.simulated.kernel import virtual
from labserver.simulated.loop import BEGINNING
from labserver.simulated.network import NetworkLoop
from labserver.simulated.scenario import Scenario
from labserver.simulated.slot_faults import SlotFaults
from labserver.simulated.states import counted
from labserver.simulated.world import World

SETTLE = 60.0  # seconds after the last fault in which everybody must catch up
REST = 20.0  # seconds after the last client has left in which servers forget it


@dataclass(frozen=True)
class Outcome:
    """What was found in one world.

    Attributes:
        scenario: What happened.
        broken: What is wrong, in sentences; empty if all promises were kept.
        seconds: Virtual seconds.
        events: Messages and faults.
        met: How often each fault met which state.
        trace: All of it as text; the same scenario gives the same text.
        counts: Sums of messages and connections.

    """

    scenario: Scenario
    broken: tuple[str, ...]
    seconds: float
    events: list[Event] = field(repr=False, default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    trace: str = field(repr=False, default="")
    counts: Counter[str] = field(default_factory=Counter)


class _Errors(logging.Handler):
    """Notes errors in the log of the server: no fault outside may cause one."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self.world = world
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.world.note("the judge", "did", f"log: {text}")
        if record.levelno >= logging.ERROR:
            exc = record.exc_info[1] if record.exc_info else None
            self.found.append(f"logged: {text}" + (f" ({exc!r})" if exc else ""))


@contextmanager
def _logged(world: World) -> Iterator[_Errors]:
    """Note the log of the server and of asyncio while the block runs."""
    handler = _Errors(world)
    loggers = [logging.getLogger(name) for name in ("labserver", "asyncio")]
    before = [(each.propagate, each.level) for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.propagate = False
        each.setLevel(logging.WARNING)
    try:
        yield handler
    finally:
        for each, (propagate, level) in zip(loggers, before, strict=True):
            each.removeHandler(handler)
            each.propagate = propagate
            each.setLevel(level)


def run(scenario: Scenario) -> Outcome:
    """Run a scenario."""
    loop = NetworkLoop(scenario.seed, scenario.disorder)
    world = World(loop, scenario)
    broken: list[str] = []
    seed = scenario.seed
    with virtual(world.network, seed), counted(world.met), _logged(world) as log:
        try:
            broken += loop.run_until_complete(_life(world))
        except Exception as exc:
            broken.append(f"the world ended: {exc!r}")
        seconds = loop.time() - BEGINNING
        broken += log.found + world.problems
        broken += [_sentence(each) for each in loop.complaints]
        broken += [each for process in loop.processes for each in process.failures()]
        trace = world.trace
        _clear_away(loop)
    counts = Counter(
        acknowledged=sum(len(each.acknowledged) for each in world.members),
        delivered=sum(each.oracle.verdict.received for each in world.members),
        connects=sum(each.client.connects for each in world.members),
        told=sum(sum(each.told.values()) for each in world.members),
    )
    outcome = Outcome(
        scenario, tuple(broken), seconds, world.events, world.met, trace, counts
    )
    gc.collect()
    return outcome


async def _life(world: World) -> list[str]:
    """Live through a scenario; return what is wrong."""
    for replica in world.replicas:
        replica.start()
    members = world.members
    lives = [each.process.start(each.live()) for each in members]
    faults = (SlotFaults if world.scenario.cluster else Faults)(world)
    await asyncio.sleep(0.5)
    await asyncio.gather(*(faults.strike(each) for each in world.scenario.faults))
    left = BEGINNING + world.scenario.seconds - world.loop.time()
    await asyncio.sleep(max(0.0, left))
    world.fault("no more faults")
    await asyncio.sleep(world.scenario.after)
    for member in members:
        member.speaking = False
    broken: list[str] = []
    _, late = await asyncio.wait(lives, timeout=SETTLE)
    if late:
        names = [m.name for m, life in zip(members, lives, strict=True) if life in late]
        return [*broken, f"still busy after {SETTLE:g} s: {', '.join(names)}"]
    # Before anybody publishes again: a hole at the end shows only while it is quiet.
    if not await _until(world, lambda: not any(audit.apart(world))):
        broken += [f"in the quiet, {each}" for each in audit.apart(world)]
    speaker = members[0]
    ends = [
        speaker.process.start(speaker.say(room, f"the end of {room}"))
        for room in world.rooms
    ]
    if not await _until(world, lambda: audit.caught_up(world)):
        broken += [*audit.apart(world)] or ["nobody got the last message of a room"]
    await asyncio.wait(ends, timeout=SETTLE)
    await asyncio.sleep(1.0)
    broken += audit.audit(world)
    if not await _until(world, lambda: not any(audit.present(world))):
        broken += audit.present(world)
    await asyncio.wait([m.process.start(m.close()) for m in members], timeout=SETTLE)

    def held() -> Iterable[str]:
        return [each for r in world.replicas for each in audit.left_behind(r)]

    if not await _until(world, lambda: not held(), REST):
        broken += held()
    cover(world)
    await asyncio.gather(*(replica.drain() for replica in world.replicas))
    return broken


def cover(world: World) -> None:
    """Count what the servers that live met, beside the faults."""
    world.met["redis: output buffer full"] += sum(r.overflows for r in world.primaries)
    for redis in world.primaries:
        world.met.update({f"WAIT: {how}": n for how, n in redis.waits.items()})
    for replica in world.replicas:
        if replica.server is not None:
            for (code, by), count in replica.server.metrics.closes.items():
                world.met[f"closes: {code} by the {by}"] += count
            world.met["joins: recovered"] += replica.server.metrics.recovered
            world.met["joins: not recovered"] += replica.server.metrics.unrecovered


async def _until(
    world: World, holds: Callable[[], bool], within: float = SETTLE
) -> bool:
    """Wait until something holds; return False if it does not within some time."""
    deadline = world.loop.time() + within
    while not holds():
        if world.loop.time() > deadline:
            return False
        await asyncio.sleep(0.25)
    return True


def _sentence(context: dict[str, object]) -> str:
    exc = context.get("exception")
    return f"asyncio: {context['message']}" + (f" ({exc!r})" if exc else "")


def _clear_away(loop: NetworkLoop) -> None:
    """End what still runs, also in dead processes, without a word."""
    loop.limit += loop.limit
    loop.set_exception_handler(lambda loop, context: None)
    for process in loop.processes:
        process.dead = process.still = process.due = False
        process.plan()
    with contextlib.suppress(RuntimeError):  # it does not end, as was told
        for _ in range(5):  # a task may wait once more while it ends
            everything = [task for each in loop.processes for task in each.tasks]
            unfinished = [task for task in everything if not task.done()]
            for task in unfinished:
                task.cancel()
            if unfinished:
                loop.run_until_complete(asyncio.wait(unfinished, timeout=10.0))
    loop.close()
