"""A race in simulated worlds: found by its seed, made small, drawn, and run again.

A world has a clock of its own, so it runs in another process: this program, which gets
the learner's function as text.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import sys
import textwrap
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from labserver.contract.messages import Join, Joined
from labserver.errors import BadMessage, BrokerDown
from labserver.judge.evidence import Event
from labserver.judge.page import SVG_STYLE, diagram
from labserver.judge.run import Finding
from labserver.server.member import Member
from labserver.server.parts import Lab, Parts, Position
from labserver.settings import Settings
from labserver.simulated import world
from labserver.simulated.run import Outcome, run
from labserver.simulated.scenario import Fault, Scenario
from labserver.simulated.shrink import shrink, size
from labserver.stages import build
from labserver.stages.rooms import RoomsApplication

SEEDS = 8  # worlds in which a function is tried
TRIES = 6  # runs to make a world smaller
TIMEOUT = 60.0  # seconds for all of them
BEFORE, AFTER = 0.05, 0.3  # seconds around a hole that a picture shows

Order = Callable[..., Awaitable[None]]


class Worlds(msgspec.Struct):
    """What simulated worlds showed.

    Attributes:
        scenario: The smallest world that broke a promise, or the last one.
        tried: Worlds until one broke a promise, or all.
        before: How large that world was, in words.
        seen: What was broken; empty if nothing was.
        picture: Its space-time diagram, SVG.

    """

    scenario: Scenario
    tried: int
    before: str = ""
    seen: str = ""
    picture: str = ""

    def __repr__(self) -> str:
        if not self.seen:
            return f"{self.tried} worlds: every promise was kept"
        return (
            f"world {self.tried} broke a promise: {self.before}\n"
            f"the smallest that breaks it, too: {size(self.scenario)}\n{self.seen}"
        )

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        bundle = {"text/plain": repr(self)}
        return bundle | ({"image/svg+xml": self.picture} if self.picture else {})


class Asked(msgspec.Struct):
    """What the other process is asked for: a function, and where it is tried first."""

    source: str
    name: str
    first: Scenario | None = None


async def worlds(order: Order, first: Worlds | None = None) -> Worlds:
    """Try the steps of a join in simulated worlds until one breaks a promise.

    Args:
        order: Gets ``subscribe``, ``read`` and ``enter``, the steps of a join.
        first: The world in which it is tried first, from an earlier call.

    Raises:
        RuntimeError: The function fails, or goes on and on; the text says how.

    """
    source = textwrap.dedent(inspect.getsource(order))
    scenario = first.scenario if first else None
    asked = msgspec.json.encode(Asked(source, order.__name__, scenario))
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver.notebook.workshop.race"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            said, problem = await program.communicate(asked)
    except TimeoutError:
        raise RuntimeError(
            f"the worlds did not end within {TIMEOUT:g} s: does a step wait for itself?"
        ) from None
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    if program.returncode:
        raise RuntimeError(problem.decode().strip().rpartition("\n")[2])
    return msgspec.json.decode(said, type=Worlds)


class OrderedRooms(RoomsApplication):
    """Rooms whose joins take their steps in a given order."""

    def __init__(self, lab: Lab, rooms_limit: int, order: Order) -> None:
        super().__init__(lab, rooms_limit)
        self.order = order

    async def join(self, member: Member, message: Join) -> None:
        lab, name = self.lab, message.room
        after = None if message.after is None else message.after.seq
        with lab.hub.joining(member, name) as entry:

            async def subscribe() -> None:
                await lab.broker.subscribe(name)

            async def read() -> Position:
                return await lab.broker.read(name, after)

            def enter(position: Position) -> None:
                missed = lab.history.missed(message.after, position)
                there, recovered = (position.epoch, position.seq), missed is not None
                answer = Joined(name, *there, recovered, message.ref)
                if not member.gone:
                    lab.hub.add(entry, answer, missed or ())
                    if message.presence:
                        lab.attendance.enter(member, name)

            try:
                await self.order(subscribe, read, enter)
            except BrokerDown as exc:
                raise BadMessage("broker_down", str(exc), message.ref) from None


def tried(asked: Asked) -> Worlds:
    """Run worlds with the function that was asked about."""
    given: dict[str, Any] = {}
    exec(compile(asked.source, "<your cell>", "exec"), given)
    order = given[asked.name]

    def ordered(stage: str, settings: Settings, *more: Any) -> Parts:
        def application(lab: Lab) -> OrderedRooms:
            return OrderedRooms(lab, settings.rooms_limit, order)

        return replace(build(stage, settings), application=application)

    vars(world)["build"] = ordered  # what its servers are built by
    scenarios = [asked.first] if asked.first else []
    scenarios += [short(seed) for seed in range(SEEDS - len(scenarios))]
    for number, scenario in enumerate(scenarios, start=1):
        outcome = run(scenario)
        if outcome.broken:
            small = shrink(outcome, tries=TRIES)
            seen = small.broken[0]
            return Worlds(
                small.scenario, number, size(scenario), seen, picture_of(small)
            )
    return Worlds(scenarios[-1], len(scenarios))


def short(seed: int) -> Scenario:
    """Return four seconds of a busy room, in which clients lose their connections."""
    dice = random.Random(seed)
    cuts = (
        Fault(round(at + dice.random(), 3), "cut_client", dice.randrange(60))
        for at in range(1, 5)
    )
    return Scenario(
        str(seed),
        replicas=3,
        clients=6,
        rooms=1,
        seconds=4.0,
        after=0.0,
        pause=0.15,
        faults=tuple(cuts),
    )


def around(events: list[Event], who: str) -> list[Event]:
    """Return what happened around the first hole in what a client got.

    These are its messages, and the publishes of the others; all if there is no hole.
    """
    last, begun, numbers = -1, 0.0, dict[int, str]()
    for event in events:
        if event.way != "received":
            continue
        said = msgspec.json.decode(event.text)
        if said["type"] == "message":
            numbers.setdefault(said["seq"], said["payload"].rstrip("."))
        if event.who != who or said["type"] not in ("joined", "message", "gap"):
            continue
        if said["type"] == "joined" and not said["recovered"]:
            last, begun = said["seq"], event.at
        elif said["type"] == "gap":
            last = said["to"]
        elif said["type"] == "message":
            if -1 < last < said["seq"] - 1:
                window = [e for e in events if begun - BEFORE < e.at < event.at + AFTER]
                lost = [numbers.get(each, "") for each in range(last + 1, said["seq"])]
                return [short for e in window if (short := _short(e, who, lost))]
            last = said["seq"]
    return events


def _short(event: Event, who: str, lost: list[str]) -> Event | None:
    """Return an event in few words; None for what another client receives."""
    if event.way not in ("sent", "received"):
        return None
    said = msgspec.json.decode(event.text)
    if event.way == "sent":
        if said["type"] != "publish":
            return None
        never = f", which {who} never gets" if said["payload"] in lost else ""
        text = f"{said['payload']}{never}"
    elif event.who != who or said["type"] not in ("joined", "message"):
        return None
    else:
        text = f"{said['type']} {said['seq']} {said.get('payload', '').rstrip('.')}"
    return replace(event, text=text)


def picture_of(outcome: Outcome) -> str:
    """Return the space-time diagram of a world, around what was broken."""
    who = outcome.broken[0].partition(":")[0]
    finding = Finding(
        "resume",
        "",
        "",
        "broken",
        outcome.broken[0],
        outcome.seconds,
        events=around(outcome.events, who),
    )
    style = f'<style>{SVG_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    opened, end, rest = diagram(finding).partition(">")
    return f'{opened} xmlns="http://www.w3.org/2000/svg"{end}{style}{rest}'


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    sys.stdout.buffer.write(msgspec.json.encode(tried(asked)))
