"""A flame graph of a few functions, sampled in this process.

The width of a box is the time of its function, with all functions that it called, and
all graphs of a picture have one scale. A box is drawn above its caller. A function
written in C has no box: its time is counted for its caller.
"""

from __future__ import annotations

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from labserver.load.pictures.style import COLOURS, INK, plain
from labserver.notebook.charts import WIDTH, Picture

EVERY = 0.001  # seconds between two samples
NARROW = 0.05  # share of the width below which a box has no name
SMALL = 0.25  # share of the longest below which a graph is drawn magnified, too
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


@dataclass(frozen=True)
class Profile:
    """Where the time of one function goes.

    Attributes:
        name: What the picture calls it.
        each: Microseconds of a call.
        stacks: Samples by stack, the function itself first.

    """

    name: str
    each: float
    stacks: Counter[Stack]

    def widths(self) -> dict[Stack, float]:
        """Return the microseconds of each function, by its stack."""
        counts = Counter[Stack]()
        for stack, count in self.stacks.items():
            for depth in range(1, len(stack) + 1):
                counts[stack[:depth]] += count
        total = sum(self.stacks.values()) or 1
        return {stack: count / total * self.each for stack, count in counts.items()}


def profiled(name: str, function: Callable[[], object], seconds: float) -> Profile:
    """Call a function again and again, and sample its stack."""
    stacks = Counter[Stack]()
    calls, started = 0, time.perf_counter()
    with _sampled(stacks, function.__name__):
        while time.perf_counter() < started + seconds:
            function()
            calls += 1
    return Profile(name, (time.perf_counter() - started) / calls * 1e6, stacks)


def flames(
    functions: Mapping[str, Callable[[], object]], *, title: str, seconds: float = 0.8
) -> Picture:
    """Call functions repeatedly, and draw where their time goes, on one scale.

    A graph that is much narrower than the widest is drawn a second time, magnified.

    Args:
        functions: Functions by name; each is called again and again for ``seconds``.
        title: Title of the picture.
        seconds: Seconds for each function.

    """
    return drawn([profiled(*each, seconds) for each in functions.items()], title)


def drawn(profiles: Sequence[Profile], title: str) -> Picture:
    """Draw profiles, one below the other."""
    longest = max(profile.each for profile in profiles)
    panels = [(profile, longest) for profile in profiles]
    panels += [(each, each.each) for each in profiles if each.each < SMALL * longest]
    figure = Figure(figsize=(WIDTH, 1.9 * len(panels) + 0.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    for index, (profile, scale) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        heading = f"{profile.name}: {profile.each:,.0f} µs a message"
        if scale < longest:
            heading = f"{profile.name}, magnified {longest / scale:.0f} times"
        axes.set_title(heading, loc="left", fontsize=9.5, color=INK)
        _draw(axes, profile, scale)
    words = [
        f"{each.name}: {each.each:.0f} µs a message; {_widest(each)}"
        for each in profiles
    ]
    return Picture(figure, f"{title}. {'. '.join(words)}.")


def _draw(axes: Axes, profile: Profile, scale: float) -> None:
    """Draw a profile where the whole width stands for ``scale`` microseconds."""
    widths = profile.widths()
    lefts: dict[Stack, float] = {(): 0.0}
    filled = defaultdict[Stack, float](float)
    for stack in sorted(widths, key=lambda each: (len(each), -widths[each])):
        parent, width = stack[:-1], widths[stack]
        left = lefts[stack] = lefts[parent] + filled[parent]
        filled[parent] += width
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
        if width > NARROW * scale:
            name = stack[-1].rpartition("<locals>.")[2]
            room = int(width / scale * 95)
            axes.text(
                left + 0.004 * scale,
                len(stack) - 0.53,
                f"{name} {width / profile.each:.0%}"[:room],
                va="center",
                fontsize=8,
                color=INK,
                clip_on=True,
            )
    plain(axes, grid="")
    axes.set_xlim(0, scale)
    axes.set_ylim(0, max(*map(len, widths), 3))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f} µs")


def _widest(profile: Profile) -> str:
    """Return the widest boxes in words."""
    shares = {each: took / profile.each for each, took in profile.widths().items()}
    return ", ".join(
        f"{each[-1]} {share:.0%}" for each, share in shares.items() if share > NARROW
    )
