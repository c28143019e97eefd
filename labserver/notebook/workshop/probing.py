"""A learner's part in a real server, and the promises that the server then keeps."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from labserver.errors import SettingsError
from labserver.judge import PROMISES, CannotJudge, World
from labserver.judge.peers import SECRET
from labserver.judge.run import Check, Finding, checks_up_to, judge
from labserver.judge.world import breakable_redis
from labserver.notebook.workshop.backoff import CHECKS, Returning
from labserver.notebook.workshop.checks import is_empty
from labserver.notebook.workshop.plain import Plain
from labserver.notebook.workshop.probed import Probed
from labserver.notebook.progress import Line
from labserver.notebook.workshop.raised import Raised, collected
from labserver.notebook.workshop.reasons import telling
from labserver.notebook.workshop.stopping import interrupt
from labserver.redis.embedded import running_redis
from labserver.server.parts import Parts
from labserver.server.presence import Roster
from labserver.settings import Settings
from labserver.stages import LAST, STAGES, included

PATIENCE = 2.0  # seconds until what does not come counts as missing
# Where nothing else is wrong, the machine may be busy: a check that waited in vain, or
# that broke while this process was late, is asked again, alone.
PATIENT, IN_VAIN = 4.0, "in vain"
LATE = 0.1  # seconds; on a quiet machine it is a hundredth of that
AT_ONCE = 8  # checks: most of the time they wait
STUCK = 3.0  # seconds that a part may hold the event loop
WHOLE = 120.0  # seconds for everything, on a machine that is very busy

# What a class of each part has, and the stage that brings it.
SHAPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "outbox": ("backpressure", ("deliver", "control", "paused", "resumed", "waiting")),
    "broker": ("broker", ("start", "stop", "publish", "subscribe", "read")),
    "admission": ("auth", ("admit", "opened", "released", "refresh")),
    "heartbeat": ("heartbeat", ("watch", "forget", "start", "stop")),
    "application": ("rooms", ("receive", "closed")),
    "history": ("resume", ("missed",)),
}
# A coroutine is no part of a server: it is all of it, and its stage is the first.
SERVER, FIRST = "server", "echo"
GIVEN = ("start", "stop")  # a chapter may give these
# And a function of three arguments is how long a client waits.
BACKOFF = "backoff"
# Stages before whose promises are about one connection; these parts never touch one.
NOT_ASKED = {
    "broker": ("heartbeat", "backpressure"),
    "history": ("heartbeat", "backpressure"),
}
# What an object of it has besides methods.
ATTRIBUTES = {
    "admission": ("places", "such as Places()"),
    "heartbeat": ("interval", "in seconds"),
}
# What a part is given for each server, or each connection.
LATER = {"application": ("lab",), "outbox": ("connection", "metrics")}


class Alone:
    """What a broker has beside its promise, where a learner's does not have it."""

    deaf = False

    def unsubscribe(self, room: str) -> None:
        pass

    async def here(self, room: str, mine: Roster, ttl: float, known: Any) -> Roster:
        return mine


async def probe(part: Any, stage: str = "", before: bool = True) -> Probed:
    """Let a class take its part's place, and check its stage's promises and all before.

    Args:
        part: The class: of an application, admission, heartbeat, outbox, broker or
            history. Its arguments are given by their names. Or an async function of a
            reader and a writer, which serves one TCP connection. Or a function of the
            attempt, of what was told, and of a random source: how long a client waits.
        stage: Last stage; the one that brings the part, unless given.
        before: Whether the promises of the stages before are checked, too: those that
            a part can break.

    Raises:
        SettingsError: The class has another shape than any part; the message says what
            it lacks.

    """
    place = place_of(part)
    own, methods = SHAPES.get(place, (LAST if place == BACKOFF else FIRST, ()))
    stage = stage or own
    included(stage)
    written = [getattr(part, each) for each in methods if each not in GIVEN]
    if all(map(is_empty, written or [part])):
        return Probed(part.__name__, place, own)

    def change(parts: Parts, settings: Settings) -> Parts:
        return replace(parts, **{place: made(part, place, settings)})

    def world(redis: str = "", **options: Any) -> World:
        if place == SERVER:
            return Plain(stage, redis, secret=SECRET, serve=part, **options)
        if place == BACKOFF:
            return Returning(stage, delay=part, **options)
        return World(stage, redis, change=change, **options)

    checks = [
        pair
        for pair in checks_up_to(PROMISES, stage)
        if (before or STAGES[pair[0]].number >= STAGES[own].number)
        and pair[0] not in NOT_ASKED.get(place, ())
    ]
    if place == BACKOFF:
        checks = [(own, check) for check in CHECKS]
    if place not in (SERVER, BACKOFF):
        # A wrong shape is said before anything runs. Nothing connects to this Redis.
        made(part, place, Settings(redis="redis://localhost"))
    findings: list[Finding] = []
    doubted: set[str] = set()
    ticked = [time.monotonic()]
    over = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with asyncio.Runner() as runner:
                every = _all(
                    place, stage, checks, world, findings, doubted, ticked, raised
                )
                runner.run(every)
        except BaseException as exc:
            failed.append(exc)
        finally:
            over.set()

    thread = threading.Thread(target=work, daemon=True)
    hung, line, begun, told = "", Line(), time.monotonic(), 0
    with collected(part) as raised:
        thread.start()
        while not over.is_set():
            await asyncio.sleep(0.05)
            if len(findings) > told:
                told = len(findings)
                line.say(f"checks: {told}")
            now = time.monotonic()
            # A machine that is busy holds the loop up as well.
            if not hung and now - ticked[0] > STUCK and raised.runs(thread):
                hung = f"{part.__name__} held the event loop for {STUCK:g} s"
            elif not hung and now - begun > WHOLE:
                hung = f"{part.__name__} took more than {WHOLE:g} s"
            if hung:
                interrupt(thread)
                await asyncio.sleep(0.2)
                if now - begun > 2 * WHOLE or now - ticked[0] > 2 * STUCK:
                    break  # it is in a call that nothing ends; the thread is a daemon
    if failed and not hung:
        raise failed[0]
    order = [check.__name__ for _, check in checks]
    findings.sort(key=lambda each: order.index(each.check))
    hung = hung and f"{hung}: stopped."
    about = tuple(findings), hung, tuple(raised.kept), frozenset(doubted)
    return Probed(part.__name__, place, own, *about)


def place_of(part: Any) -> str:
    """Return which part of a server a class is made for, or what a function is.

    Raises:
        SettingsError: It is nothing that can be probed, or lacks something.

    """
    if inspect.isfunction(part):
        return SERVER if _is_server(part) else BACKOFF
    if not inspect.isclass(part):
        raise SettingsError(
            f"probe takes a class or an async function, not {type(part).__name__}: "
            f"{part!r:.60}"
        )
    best, lacks = "", list[str]()
    for place, (_, methods) in SHAPES.items():
        missing = [each for each in methods if not callable(getattr(part, each, None))]
        if not missing:
            return place
        if len(missing) < len(methods) and (not best or len(missing) < len(lacks)):
            best, lacks = place, missing
    if not best:
        raise SettingsError(
            f"{part.__name__} is no part of a server: it has the methods of neither "
            f"{', '.join(SHAPES)}"
        )
    raise SettingsError(
        f"{part.__name__} looks like {best}, and lacks {', '.join(lacks)}"
    )


def _is_server(part: Any) -> bool:
    """Return whether a function serves connections, or says how long to wait."""
    takes = inspect.signature(part)
    if inspect.iscoroutinefunction(part):
        try:
            takes.bind("reader", "writer")
        except TypeError as exc:
            raise SettingsError(
                f"{part.__name__} is called with a reader and a writer: {exc}"
            ) from None
        return True
    try:
        takes.bind("attempt", "told", "draw")
    except TypeError:
        raise SettingsError(
            f"{part.__name__} should be an async function (async def), without yield, "
            "of a reader and a writer; or a function of attempt, told and draw"
        ) from None
    return False


def made(part: Any, place: str, settings: Settings) -> Any:
    """Return a part of a server, or what makes one for each connection or server.

    Raises:
        SettingsError: It wants an argument that nobody has.

    """
    given = {
        "settings": settings,
        "interval": settings.heartbeat_interval,
        "limit": settings.history_limit,
        "ttl": settings.history_ttl,
        "replay_limit": settings.outbox_limit,
        "outbox_limit": settings.outbox_limit,
        "rooms_limit": settings.rooms_limit,
        "url": settings.redis,
    }
    later = LATER.get(place, ())
    wanted = [
        each
        for each in inspect.signature(part).parameters.values()
        if each.kind is not each.VAR_POSITIONAL and each.kind is not each.VAR_KEYWORD
    ]
    for each in wanted:
        if each.name not in (*given, *later) and each.default is each.empty:
            known = ", ".join((*later, *given))
            raise SettingsError(
                f"{part.__name__} wants {each.name!r}, and can be given: {known}"
            )
    names = {each.name for each in wanted}
    if place == "broker":
        part = type(part.__name__, (part, Alone), {})

    def make(*values: Any) -> Any:
        every = {**given, **dict(zip(later, values, strict=True))}
        return part(**{name: every[name] for name in names if name in every})

    if later:
        return make
    one = make()
    name, what = ATTRIBUTES.get(place, ("__class__", ""))
    if not hasattr(one, name):
        raise SettingsError(f"{part.__name__} has no attribute {name}, {what}")
    return one


async def _all(
    place: str,
    stage: str,
    checks: Sequence[tuple[str, Check]],
    world: Callable[..., World],
    findings: list[Finding],
    doubted: set[str],
    ticked: list[float],
    raised: Raised,
) -> None:
    """Run checks in a server of a stage, a few at a time.

    Adds to ``findings``, and to ``doubted`` the checks that broke when the machine may
    have been the cause.

    Raises:
        CannotJudge: This machine is too busy, also for one check alone.

    """
    turn = asyncio.Semaphore(AT_ONCE)
    raised.listen(asyncio.get_running_loop())

    async def tick() -> None:
        while True:
            ticked[0] = time.monotonic()
            await asyncio.sleep(0.1)

    broker = STAGES["broker"].number

    async def one(name: str, check: Check, patience: float = PATIENCE) -> Finding:
        async with AsyncExitStack() as stack:
            if check in CHECKS:  # of clients alone
                where = world(patience=patience)
            elif name == "broker":  # whose checks break it
                url, network, store = await stack.enter_async_context(breakable_redis())
                where = world(url, network=network, store=store, patience=patience)
            elif STAGES[stage].number >= broker:
                url = await stack.enter_async_context(running_redis())
                where = world(url, patience=patience)
            else:
                where = world(patience=patience)
            (finding,) = (await judge(where, [(name, check)])).findings
            return finding

    unsure: dict[str, tuple[str, Check]] = {}

    async def first(name: str, check: Check) -> None:
        async with turn:
            try:
                findings.append(finding := await one(name, check))
            except CannotJudge:
                unsure[check.__name__] = name, check
            else:
                slow = IN_VAIN in finding.seen or finding.late > LATE
                if finding.outcome == "broken" and slow:
                    unsure[check.__name__] = name, check

    async def again(which: str) -> bool:
        """Ask a check again, alone; return whether it is broken."""
        finding = await one(*unsure.pop(which), PATIENT)
        findings[:] = [*(each for each in findings if each.check != which), finding]
        broken = finding.outcome == "broken"
        if not broken or finding.late <= LATE:
            doubted.discard(which)
        return broken

    ticking = asyncio.create_task(tick())
    try:
        await asyncio.gather(*(first(*pair) for pair in checks))
        if not PATIENT:
            return
        doubted.update(unsure)
        if {each.check for each in findings if each.outcome == "broken"} <= doubted:
            for which in list(unsure):
                if await again(which):
                    break  # so what the others saw was no lack of time either
        # Why it is wrong shall not rest on what one look of many at a time saw.
        while (which := telling(place, findings, raised.kept)[0]) in unsure:
            with contextlib.suppress(CannotJudge):  # it stays doubted
                await again(which)
    finally:
        ticking.cancel()
