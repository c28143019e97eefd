"""A tour of failures in a cluster, which shows that its clients lose nothing.

It runs replicas on an embedded Redis, with HAProxy in front if it is installed. Clients
publish all the time, while processes are killed, frozen and restarted. The messages of
every client are audited.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import statistics
from collections.abc import Sequence

from rich.console import Console

from labserver.contract.tokens import issue
from labserver.demo.crowd import Crowd, Tally
from labserver.demo.screen import Line, Screen
from labserver.demo.steps import STEPS, Step
from labserver.demo.world import World, running_world
from labserver.errors import SettingsError
from labserver.settings import secret_of

REPLICAS = 3
LOOK_INTERVAL = 0.5  # seconds
STEP_TIMEOUT = 60.0


def chosen_steps(names: str) -> list[Step]:
    """Return the steps of a comma-separated list, in the order of the tour.

    Raises:
        SettingsError: There is no such step.

    """
    known = [step.name for step in STEPS]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise SettingsError(f"--steps takes {', '.join(known)}, not {name[:40]!r}")
    return [step for step in STEPS if not wanted or step.name in wanted]


async def demo(
    steps: Sequence[Step],
    *,
    clients: int,
    seconds: float,
    router: bool,
    keep: bool,
    console: Console,
) -> int:
    """Run the tour and print its summary; return 0 if nothing was lost, else 1.

    Args:
        steps: Steps of the tour.
        clients: Number of clients, which publish and listen.
        seconds: Seconds that the clients go on after each step.
        router: Whether to use HAProxy, if it is installed.
        keep: Whether to keep everything running until Ctrl-C, SIGTERM or SIGHUP.
        console: Output of the tour.

    """
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    secret = secret_of() or secrets.token_urlsafe(32)
    tally = None
    try:
        async with running_world(REPLICAS, secret, router) as world:
            tally = await tour(world, steps, clients, seconds, console)
            if keep:
                where = world.url().replace("ws://", "http://", 1)
                console.print(f"\nstill running: {where} (Ctrl-C ends it). A token:")
                print(issue(secret, "ann"), flush=True)  # on one line, to copy it
                await asyncio.Event().wait()
    except asyncio.CancelledError:
        if tally is None:
            return 130
    assert tally is not None
    return 0 if tally.clean else 1


async def tour(
    world: World,
    steps: Sequence[Step],
    clients: int,
    seconds: float,
    console: Console,
) -> Tally:
    """Run the steps while clients publish; return the tally of their messages."""
    behind = "behind HAProxy" if world.router else "in turn (HAProxy is not used)"
    title = f"{REPLICAS} replicas {behind}, one Redis, {clients} clients"
    async with Crowd(world.url, world.secret) as crowd:
        for number in range(clients):
            await crowd.enter(f"user-{number}")
        crowd.talk()
        with Screen(console, title) as screen:
            for step in steps:
                line = Line(step)
                screen.begin(line, len(steps))
                before = crowd.tally()
                crowd.latencies.clear()
                doing = asyncio.create_task(perform(step, world, crowd, seconds))
                try:
                    while not doing.done():
                        await asyncio.wait([doing], timeout=LOOK_INTERVAL)
                        await asyncio.gather(*(place.look() for place in world.places))
                        fill(line, before, crowd)
                        screen.show(world.places, crowd.tally())
                finally:
                    doing.cancel()
                doing.result()
                screen.end()
            tally = await crowd.finish()
            fill(line, before, crowd)
            screen.summary(tally)
    heard = f"{tally.published:,} messages, {tally.clients} clients"
    if tally.clean:
        console.print(f"\n[green]Nothing was lost[/]: {heard}, each once and in order.")
    else:
        console.print(
            f"\n[bold red]BROKEN[/]: {heard}; see lost, duplicated, reordered"
        )
    return tally


async def perform(step: Step, world: World, crowd: Crowd, seconds: float) -> None:
    """Do a step, then wait ``seconds``."""
    async with asyncio.timeout(STEP_TIMEOUT + seconds):
        await step.run(world, crowd)
        await asyncio.sleep(seconds)


def fill(line: Line, before: Tally, crowd: Crowd) -> None:
    """Fill a line with the differences since the step began."""
    now = crowd.tally()
    line.delivered = now.delivered - before.delivered
    line.returned = now.returned - before.returned
    line.lost = now.lost - before.lost
    if crowd.latencies:
        line.median = statistics.median(crowd.latencies)
        line.slowest = max(crowd.latencies)
