"""A flame graph of a few functions, sampled in this process.

The width of a box is the share of samples in which its function, or a function called
by it, was running. A box is drawn above its caller. A function written in C has no box:
its time is counted for its caller.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from labserver.load.pictures.style import COLOURS, INK
from labserver.notebook.charts import WIDTH, Picture

EVERY = 0.001  # seconds between two samples
NARROW = 0.05  # share of the width below which a box has no name
Stack = tuple[str, ...]


@contextmanager
def _sampled(stacks: Counter[Stack], root: str) -> Iterator[None]:
    """Sample the stacks below the function called ``root`` until the block ends."""

    def sample(number: int, frame: FrameType | None) -> None:
        names = []
        while frame is not None:
            names.append(frame.f_code.co_qualname.removeprefix("<module>."))
            if frame.f_code.co_name == root:
                stacks[tuple(reversed(names))] += 1
                return
            frame = frame.f_back

    before = signal.signal(signal.SIGALRM, sample)
    signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def flames(
    functions: Mapping[str, Callable[[], object]], *, title: str, seconds: float = 0.8
) -> Picture:
    """Call functions repeatedly, and draw where their time goes.

    Args:
        functions: Functions by name; each is called again and again for ``seconds``.
        title: Title of the picture.
        seconds: Seconds for each function.

    """
    figure = Figure(figsize=(WIDTH, 2.0 * len(functions) + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    words = []
    for index, (name, function) in enumerate(functions.items()):
        stacks = Counter[Stack]()
        calls, started = 0, time.perf_counter()
        with _sampled(stacks, function.__name__):
            while time.perf_counter() < started + seconds:
                function()
                calls += 1
        each = (time.perf_counter() - started) / calls * 1e6
        axes = figure.add_subplot(len(functions), 1, index + 1)
        axes.set_title(
            f"{name}: {each:,.0f} µs a message", loc="left", fontsize=9.5, color=INK
        )
        shares = _draw(axes, stacks)
        words.append(f"{name}: {each:.0f} µs a message; {shares}")
    return Picture(figure, f"{title}. {'. '.join(words)}.")


def _draw(axes: Axes, stacks: Counter[Stack]) -> str:
    """Draw the stacks; return the widest boxes in words."""
    total = sum(stacks.values()) or 1
    deepest = max(map(len, stacks), default=1)
    widths = Counter[Stack]()
    for stack, count in stacks.items():
        for depth in range(1, len(stack) + 1):
            widths[stack[:depth]] += count
    lefts: dict[Stack, float] = {(): 0.0}
    filled = Counter[Stack]()
    for stack in sorted(widths, key=lambda each: (len(each), -widths[each])):
        parent, width = stack[:-1], widths[stack] / total
        left = lefts[parent] + filled[parent] / total
        filled[parent] += widths[stack]
        lefts[stack] = left
        name = stack[-1].rpartition("<locals>.")[2]
        axes.add_patch(
            Rectangle(
                (left, len(stack) - 1),
                width,
                0.94,
                facecolor=COLOURS[(4, 1, 4, 1)[len(stack) % 4]],
                alpha=0.55,
                edgecolor="white",
            )
        )
        if width > NARROW:
            room = int(width * 95)
            axes.text(
                left + 0.004,
                len(stack) - 0.53,
                f"{name} {width:.0%}"[:room],
                va="center",
                fontsize=8,
                color=INK,
                clip_on=True,
            )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(deepest, 3))
    axes.set_axis_off()
    chosen = [each for each in widths if widths[each] / total > NARROW]
    return ", ".join(f"{each[-1]} {widths[each] / total:.0%}" for each in chosen)
