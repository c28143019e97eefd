"""An event loop whose clock is virtual, and on which several programs run.

A real loop waits until something happens. This one has a list of everything that will
happen, takes the earliest entry, and sets its clock to that moment. An hour without
messages takes no time. Nothing else may happen: no thread, no socket, no clock of the
machine. So what happens depends on the seed alone.

Each simulated program is a :class:`Process` with a queue of its own, in which callbacks
run in the order that asyncio promises. What asyncio leaves open, chance decides: which
of two processes runs first, how long a turn of a loop takes, and in which order a loop
sees the sockets and timers that became ready during a turn. Code that relies on one of
these is wrong on a real machine, too. To shuffle more would find errors that no machine
can show.

Two libraries for this exist, and a third for the clock. ``simloom`` and ``simloop``
need Python 3.12, and the lab supports 3.11. ``looptime`` makes the clock of a loop
virtual, but its sockets are those of the machine. What remains to be written is this
file, which is short, and the network.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

TURN = 200e-6  # seconds that one turn of a process's loop takes at most
LEAST = 1e-6  # and at least, so that a loop that never waits cannot stop the clock
STEPS = 1_000_000  # things that happen, after which a world counts as endless
BEGINNING = 1000.0  # what the clock shows at first: a monotonic clock is rarely at 0

_process: ContextVar[Process] = ContextVar("process")


class Process:
    """A simulated program: it runs, stands still, or is dead.

    Args:
        loop: The loop on which it runs.
        name: Unique; it is also the name of its host.
        seed: What its chances begin with.

    """

    def __init__(self, loop: VirtualLoop, name: str, seed: str) -> None:
        self.loop, self.name = loop, name
        self.seed = f"{seed}/{name}"
        self.dice = random.Random(self.seed)
        self.soon: deque[asyncio.Handle] = deque()  # called by the process itself
        self.ready: list[asyncio.Handle] = []  # sockets and timers, since its last turn
        self.due = False  # whether its next turn is planned
        self.dead = False
        self.still = False  # whether it stands still, as after SIGSTOP
        self.tasks: list[asyncio.Task[Any]] = []  # all, also those that have ended
        self.started: list[asyncio.Task[Any]] = []  # from outside
        self.context = copy_context()
        self.context.run(_process.set, self)

    def start(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine as a task of this process."""
        task = self.context.run(self.loop.create_task, work)
        self.started.append(task)
        return task

    def failures(self) -> list[str]:
        """Return why tasks that were started here failed."""
        ended = [each for each in self.started if each.done() and not each.cancelled()]
        problems = [each.exception() for each in ended]
        failed = [f"{self.name} fails: {exc!r}" for exc in problems if exc]
        # asyncio logs these when they are cleared away, which is not before the end.
        unheard: list[Any] = [
            each
            for each in self.tasks
            if each.done() and each._log_traceback and each not in self.started
        ]
        failed += [f"{self.name}: nobody asked why {each!r} failed" for each in unheard]
        return failed

    def poll(self, callback: Callable[..., object], *args: Any) -> None:
        """Call back in its next turn: one of its sockets became ready."""
        if not self.dead:
            self.ready.append(asyncio.Handle(callback, args, self.loop, self.context))
            self.plan()

    def plan(self) -> None:
        """Plan its next turn, unless it is planned or the process stands still."""
        if not self.due and not self.still and not self.dead:
            self.due = True
            loop = self.loop
            wait = LEAST + self.dice.random() * TURN * loop.disorder
            loop.at(loop.now + wait, self.turn)

    def turn(self) -> None:
        """Run the callbacks that are ready now; those that they add run next time."""
        self.due = False
        if self.still or self.dead:
            return
        seen, self.ready = self.ready, []
        if len(seen) > 1 and self.loop.disorder:
            self.dice.shuffle(seen)
        handles = [*self.soon, *seen]
        self.soon.clear()
        for handle in handles:
            if not handle.cancelled():
                handle._run()
        if self.soon or self.ready:
            self.plan()

    def stop(self) -> None:
        """Stand still, as after SIGSTOP: the kernel goes on to hold its connections."""
        self.still = True

    def go_on(self) -> None:
        self.still = False
        if self.soon or self.ready:
            self.plan()

    def kill(self) -> None:
        """Die as after SIGKILL: nothing of it runs any more, not even ``finally``."""
        self.dead = True


def here() -> Process:
    """Return the process that is running; what is started outside is the judge's."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return _process.get(loop.judge)


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop that is never idle: it goes to the next moment at which something happens.

    Args:
        seed: What chance begins with.
        disorder: How much chance there is, from 0 (every turn takes the same time, and
            everything comes in the order in which it was asked for) to 1.

    """

    def __init__(self, seed: str, disorder: float = 1.0) -> None:
        super().__init__()
        self.disorder = disorder
        self.now = BEGINNING
        self.seed = seed
        self.complaints: list[dict[str, Any]] = []
        # Moment, order among those of one moment, and what happens then.
        self.agenda: list[tuple[float, int, Callable[[], object]]] = []
        self.planned = 0
        self.steps, self.limit = 0, STEPS
        self.made = 0  # tasks and futures so far
        self.judge = Process(self, "judge", seed)
        self.processes = [self.judge]
        self.set_task_factory(_task)
        self.set_exception_handler(_complain)

    def time(self) -> float:
        return self.now

    def at(self, when: float, then: Callable[[], object]) -> None:
        """Let something happen in the world, outside of all processes."""
        self.planned += 1
        heapq.heappush(self.agenda, (when, self.planned, then))

    def _run_once(self) -> None:
        """Let one thing happen after the other, until the loop is stopped."""
        agenda = self.agenda
        while not self._stopping:  # type: ignore[attr-defined]
            if not agenda:
                raise RuntimeError("nothing will ever happen again")
            self.steps += 1
            if self.steps > self.limit:
                raise RuntimeError(f"no end after {self.limit:,} steps")
            when, _, then = heapq.heappop(agenda)
            self.now = max(self.now, when)
            then()

    # asyncio asks for each handle and future: this answers False without Python code.
    get_debug = staticmethod(bool)

    # What the processes call

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        process = self._process_of(handle)
        process.soon.append(handle)
        process.plan()
        return handle

    # There are no threads; finalizers of generators call this one.
    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        process = self._process_of(timer)

        def ring() -> None:
            if not timer.cancelled() and not process.dead:
                process.ready.append(timer)
                process.plan()

        self.at(when, ring)
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _process_of(self, handle: asyncio.Handle) -> Process:
        context: Context = handle._context  # type: ignore[attr-defined]
        return context.get(_process, self.judge)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: a cancelled timer is passed over when its moment comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return NumberedFuture(loop=self)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        raise RuntimeError("a thread would not be deterministic")


class NumberedFuture(asyncio.Future[Any]):
    """A future that is hashed by its number.

    A set of futures is in the order of their hashes. Those are addresses in memory, and
    differ from run to run.
    """

    def __init__(self, *, loop: VirtualLoop) -> None:
        super().__init__(loop=loop)
        loop.made += 1
        self.number = loop.made

    def __hash__(self) -> int:
        return self.number


class NumberedTask(asyncio.Task[Any]):
    """A task that is hashed by its number."""

    number = 0

    def __hash__(self) -> int:
        return self.number


def _task(loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
    # The constructor puts the task into a set: it needs its hash before.
    task = NumberedTask.__new__(NumberedTask)
    loop.made += 1
    task.number = loop.made
    task.__init__(work, loop=loop, **options)  # type: ignore[misc]
    context = options.get("context") or copy_context()
    process = context.get(_process, loop.judge)
    # A dead process must not be cleared away before the end: its coroutines would run
    # their ``finally`` blocks then.
    process.tasks.append(task)
    return task


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    loop.complaints.append(context)
