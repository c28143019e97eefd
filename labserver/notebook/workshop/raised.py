"""What a learner's class raised while it served, and in which line."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType
from typing import Any

from labserver.notebook.workshop.twins import NOISY

LIMIT = 3  # different exceptions that are kept


class Raised(logging.Handler):
    """Collects the exceptions of one class, or function, from logs and from loops.

    Args:
        part: The class; or the function, with all else that its cell defines.

    """

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.note(record.exc_info[1])

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note the exceptions of a loop's callbacks and tasks, awaited or not."""
        loop.set_exception_handler(self._called_back)
        loop.set_task_factory(self._begun)

    def _called_back(self, loop: Any, context: dict[str, Any]) -> None:
        if isinstance(exc := context.get("exception"), Exception):
            self.note(exc)

    def _begun(self, loop: Any, work: Any, **more: Any) -> asyncio.Task[Any]:
        # Not only when a task is freed: a class may keep it, and learn nothing of it.
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (exc := task.exception()):
            self.note(exc)

    def note(self, exc: BaseException) -> None:
        """Keep an exception that was raised in, or below, the class or the cell."""
        where = [
            (frame.f_code.co_qualname, number)
            for frame, number in traceback.walk_tb(exc.__traceback__)
            if self._wrote(frame)
        ]
        if where:
            name, number = where[-1]
            said = re.sub(" at 0x[0-9a-f]+", "", str(exc))  # else no two are equal
            text = (
                f"{type(exc).__name__}: {said} (in {name}, line {number} of its cell)"
            )
            if text not in self.kept and len(self.kept) < LIMIT:
                self.kept.append(text)

    def runs(self, thread: threading.Thread) -> bool:
        """Return whether a thread executes what the learner wrote, or what it calls."""
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None and not self._wrote(frame):
            frame = frame.f_back
        return frame is not None

    def _wrote(self, frame: FrameType) -> bool:
        """Return whether a frame executes what the learner wrote."""
        code, part = frame.f_code, self.part
        if isinstance(part, FunctionType):
            return code.co_filename == part.__code__.co_filename
        return (
            code.co_qualname.startswith(f"{part.__qualname__}.")
            and frame.f_globals.get("__name__") == part.__module__
        )


@contextmanager
def collected(part: Any) -> Iterator[Raised]:
    """Keep what a class raises in a block out of the log, and yield its collector."""
    raised = Raised(part)
    loggers = [logging.getLogger(name) for name in NOISY]
    before = [(each.handlers, each.propagate) for each in loggers]
    for each in loggers:
        each.handlers, each.propagate = [raised], False
    try:
        yield raised
    finally:
        for each, (handlers, propagate) in zip(loggers, before, strict=True):
            each.handlers, each.propagate = handlers, propagate
