"""How much of a latency is the generator's own: it sent the message late.

Percentiles of the parts do not add up to a percentile of the whole. So a histogram
keeps the sum of the generator's parts in each of its buckets, and the parts of a
percentile are means over the messages next to it. The verdict, the summary and the
pictures all take them from here.
"""

from __future__ import annotations

from typing import NamedTuple

from labserver.load.figures.histogram import Histogram, upper_edge

PERCENTS = (50, 90, 99, 99.9)
WIDEST = 10.0  # percent of all messages; beyond p90, half of what is left


class Share(NamedTuple):
    """Means over the messages next to a percentile, in microseconds."""

    percent: float
    whole: float  # from due to arrival
    own: float  # generator: from due to sent

    @property
    def part(self) -> float:
        """The generator's part, from 0 to 1."""
        return min(1.0, self.own / self.whole) if self.whole else 0.0


def share(histogram: Histogram, percent: float) -> Share:
    """Return the parts of a percentile; all are 0 without messages."""
    reach = min(WIDEST, percent, 100 - percent) / 2
    least, most = (
        histogram.count * each / 100 for each in (percent - reach, percent + reach)
    )
    if most - least < 1:  # a single message, the one of the percentile
        most = max(1.0, -(-histogram.count * percent // 100))
        least = most - 1
    seen = messages = whole = own = 0.0
    for number in sorted(histogram.counts):
        count = histogram.counts[number]
        # A bucket that is only partly next to the percentile counts in proportion.
        inside = max(0.0, min(seen + count, most) - max(seen, least))
        seen += count
        messages += inside
        whole += inside * min(upper_edge(number), histogram.highest)
        own += inside * histogram.own.get(number, 0) / count
    if not messages:
        return Share(percent, 0.0, 0.0)
    return Share(percent, whole / messages, own / messages)
