"""A line that shows the progress of a long cell."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from IPython import display as ipython

Step = TypeVar("Step")
_display: Any = ipython.display

BAR = 20  # boxes of the bar


class Line:
    """A line of output that changes in place.

    Outside a notebook nothing is shown.
    """

    def __init__(self) -> None:
        self.handle: Any = None

    def say(self, text: str) -> None:
        """Show a text in place of the previous one."""
        words = {"text/plain": text}
        if self.handle is None:
            self.handle = _display(words, raw=True, display_id=True)
        else:
            self.handle.update(words, raw=True)


def progress(steps: Collection[Step], doing: str) -> Iterator[Step]:
    """Yield each step, and show how many are done.

    Args:
        steps: Values to yield, in order.
        doing: Name of the work, such as ``"publishing"``.

    """
    line, total = Line(), len(steps)
    for done, step in enumerate(steps):
        filled = BAR * done // total
        bar = "▮" * filled + "▯" * (BAR - filled)
        line.say(f"{bar} {doing}: {done} of {total}")
        yield step
    line.say(f"{doing}: {total} of {total}")
