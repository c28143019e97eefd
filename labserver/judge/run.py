"""One judgement: each check in turn, and what was found.

A check that breaks is not believed at once where something else explains it: a machine
that stood still, or a process that died, gets a second run of the check.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed, InvalidStatus

from labserver.client import Rejected
from labserver.errors import LabError
from labserver.judge.evidence import Event, gathered
from labserver.judge.outcomes import Broken, CannotJudge, Skipped
from labserver.judge.outside import Outside
from labserver.judge.world import World
from labserver.stages import STAGES

CHECK_TIMEOUT = 60.0  # seconds
LATE = 0.5  # seconds that a sleep of the judge may be late before nobody is blamed
TICK = 0.05

Check = Callable[[World], Awaitable[None]]


class TooSlow(Exception):
    """A check went on and on, though it waited for nothing in vain."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        stage: Name of the stage whose promise it belongs to.
        check: Its name.
        says: What holds when it is kept.
        outcome: ``kept``, ``broken`` or ``skipped``.
        seen: What was seen instead, or why it was skipped.
        seconds: How long it took.
        late: Seconds that a sleep of the judge was late meanwhile, at most.
        events: What was sent and received, when it is broken.

    """

    stage: str
    check: str
    says: str
    outcome: str
    seen: str = ""
    seconds: float = 0.0
    late: float = 0.0
    events: Sequence[Event] = field(default=(), repr=False)


@dataclass(frozen=True)
class Verdict:
    """What a judgement found, check by check."""

    findings: Sequence[Finding]

    def of(self, stage: str) -> str:
        """Return ``kept``, ``broken`` or ``unjudged`` for a stage's promise."""
        outcomes = {each.outcome for each in self.findings if each.stage == stage}
        if "broken" in outcomes:
            return "broken"
        return "kept" if "kept" in outcomes else "unjudged"

    @property
    def stages(self) -> list[str]:
        """The stages that were judged, in order."""
        return list(dict.fromkeys(each.stage for each in self.findings))

    @property
    def status(self) -> int:
        """0 when every promise was seen to hold, 1 when one is broken, else 2."""
        found = {self.of(stage) for stage in self.stages}
        return 1 if "broken" in found else 2 if "unjudged" in found else 0


async def judge(
    world: World,
    checks: Iterable[tuple[str, Check]],
    told: Callable[[Finding], None] = lambda finding: None,
    begun: Callable[[str, Check], None] = lambda stage, check: None,
) -> Verdict:
    """Run checks, one after the other.

    Args:
        world: Where.
        checks: Pairs of a stage's name and a check of its promise.
        told: Called with each finding as soon as there is one.
        begun: Called before each check.

    Raises:
        CannotJudge: The servers, or this machine, are not fit to be judged.

    """
    findings = []
    for stage, check in checks:
        begun(stage, check)
        finding = await _finding(world, stage, check)
        findings.append(finding)
        told(finding)
    return Verdict(findings)


async def _finding(world: World, stage: str, check: Check) -> Finding:
    finding, trouble = await _once(world, stage, check)
    if trouble or (finding.outcome == "broken" and finding.late > LATE):
        if isinstance(world, Outside):
            await world.forget()
        first = finding
        finding, again = await _once(world, stage, check)
        if finding.outcome != "broken" and trouble:
            raise CannotJudge(f"{trouble} (in {check.__name__}, and once only)")
        stood_still = finding.late > LATE and not (trouble or again)
        if finding.outcome == "broken" and stood_still:
            raise CannotJudge(
                f"this machine is too slow to judge: it stood still for "
                f"{finding.late:.1f} s while {check.__name__} ran, twice "
                f"({first.seen})"
            )
    return finding


async def _once(world: World, stage: str, check: Check) -> tuple[Finding, str]:
    """Run a check once: what it found, and what had died."""
    world.begin()
    outcome, seen, trouble = "kept", "", ""
    with gathered() as evidence:
        async with _lateness() as late:
            try:
                trouble = await _beside(world, check)
            except CannotJudge:
                raise
            except TooSlow:
                raise CannotJudge(
                    f"this machine or the server is too slow to judge: "
                    f"{check.__name__} was not over after {CHECK_TIMEOUT:g} s"
                ) from None
            except Exception as exc:
                if isinstance(exc, Skipped):
                    outcome, seen = "skipped", str(exc)
                else:
                    outcome, seen = "broken", explained(exc)
                    if "in vain" in seen:
                        seen = f"{seen}; {evidence.instead()}"
                    # A connection ends before its process has: the news may be late.
                    trouble = await _death(world, 6 if isinstance(exc, Broken) else 40)
                    if isinstance(world, Outside) and (words := world.words()):
                        seen = f"{seen}; the last that the server printed: {words}"
        if trouble and "prints" in trouble:
            raise CannotJudge(trouble)
        if trouble:
            outcome = "broken"
            seen = f"the server ended {trouble.partition(' ended ')[2]}"
    says = (check.__doc__ or "").strip().partition("\n")[0]
    finding = Finding(
        stage,
        check.__name__,
        says,
        outcome,
        seen,
        round(time.monotonic() - evidence.began, 3),
        round(late[0], 3),
        tuple(evidence.events) if outcome == "broken" else (),
    )
    return finding, trouble


async def _death(world: World, looks: int) -> str:
    """Return what ended the servers, if they are over within so many looks."""
    trouble = ""
    if isinstance(world, Outside):
        for _ in range(looks):
            if trouble := world.trouble():
                break
            await asyncio.sleep(TICK)
    return trouble


async def _beside(world: World, check: Check) -> str:
    """Run a check until it is over, or its servers are; return what ended them."""
    running = asyncio.ensure_future(check(world))
    deadline = time.monotonic() + CHECK_TIMEOUT
    try:
        while not running.done():
            if time.monotonic() > deadline:
                raise TooSlow  # each wait of it has a deadline, and was kept
            await asyncio.wait([running], timeout=TICK)
            if isinstance(world, Outside) and (trouble := world.trouble()):
                # What it has just found, too, has this as its cause.
                return trouble
        await running
        return ""
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def _lateness() -> AsyncIterator[list[float]]:
    """Yield a list whose one element is how late, at most, a sleep here was."""
    most = [0.0]

    async def watch() -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            most[0] = max(most[0], time.monotonic() - due)

    watching = asyncio.create_task(watch())
    try:
        yield most
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def explained(exc: BaseException) -> str:
    """Return what an exception in a check says about the server."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    match exc:
        case Broken():
            return str(exc)
        case InvalidStatus():
            status = exc.response.status_code
            asked = ": is LAB_SECRET its secret?" if status == 401 else ""
            return f"a handshake with a good token was answered HTTP {status}{asked}"
        case ConnectionClosed():
            code = exc.rcvd.code if exc.rcvd else 1006
            return f"closed a connection with {code}, in mid-conversation"
        case TimeoutError():
            return "waited in vain for an answer"
        case Rejected():
            return f"turned away a client with a good token: {exc}"
        case ConnectionError() | EOFError():
            return f"ended or refused a connection ({type(exc).__name__})"
        case LabError() | OSError():
            return str(exc)
    # A shape that no check expects: it names the check's line of thought at least.
    return f"answered what cannot be understood ({type(exc).__name__}: {exc})"


def checks_up_to(
    promises: dict[str, tuple[Check, ...]], stage: str
) -> list[tuple[str, Check]]:
    """Return the checks of a stage and of all before it."""
    last = STAGES[stage].number
    return [
        (name, check)
        for name, checks in promises.items()
        if STAGES[name].number <= last
        for check in checks
    ]
