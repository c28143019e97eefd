"""Samples once a period: this process's figures, and the servers' metrics."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Collection
from typing import Any

import gevent

from labserver.load.figures.record import Record
from labserver.load.figures.timeline import Slicer, sample
from labserver.load.run.clock import CLOCK

SCRAPE_TIMEOUT = 0.8  # seconds; a frozen server gets no sample
PAGE_LIMIT = 1_000_000  # bytes of a /metrics page


class Sampler:
    """Cuts the record of a process into slices, at the same times in all processes."""

    def __init__(self, record: Record, members: Collection[Any], period: float) -> None:
        self.record, self.members, self.period = record, members, period
        self.slicer = Slicer()
        self.last = 0  # number of the last slice
        self.greenlet = gevent.spawn(
            every, record.began, period, lambda number: self.cut(number)
        )

    def cut(self, number: int) -> None:
        if number < 0:
            return
        record = self.record
        users = sum(
            1 for each in self.members if each.joined and each.socket is not None
        )
        piece = self.slicer.cut(
            *(users, record.published.total(), record.latency),
            *(record.slip, record.lag, record.unmeasured.total()),
        )
        if before := record.slices.get(number):  # a timer may be a little early
            piece.add(before)
            piece.users = users
        record.slices[number] = piece

    def end(self) -> None:
        """Begin no further slice: what still arrives belongs to the last one."""
        self.greenlet.kill()
        elapsed = (CLOCK.now() - self.record.began) / 1e9
        self.last = int(elapsed / self.period)

    def stop(self) -> None:
        """Cut the last slice, which is shorter; drop it if it is empty."""
        self.cut(self.last)
        last = self.record.slices[self.last]
        if not (last.latency or last.published or last.unmeasured):
            del self.record.slices[self.last]


class Scraper:
    """Requests ``/metrics`` of servers, and keeps a few figures of each page."""

    def __init__(self, urls: Collection[str], began: int, period: float) -> None:
        self.samples: dict[str, dict[int, dict[str, float]]] = {u: {} for u in urls}
        self.greenlets = [
            gevent.spawn(every, began, period, self.asking(url)) for url in urls
        ]

    def asking(self, url: str) -> Callable[[int], None]:
        page = url.replace("ws", "http", 1).rstrip("/") + "/metrics"

        def ask(number: int) -> None:
            try:
                # Locust has patched the standard library: only this greenlet waits.
                with urllib.request.urlopen(page, timeout=SCRAPE_TIMEOUT) as response:
                    text = response.read(PAGE_LIMIT).decode()
                self.samples[url][number] = sample(text)
            except (OSError, ValueError):
                pass  # down, frozen, or not a labserver: no sample

        return ask

    def stop(self) -> None:
        gevent.killall(self.greenlets)


def every(began: int, period: float, look: Callable[[int], None]) -> None:
    """Call ``look`` with -1 now, and with its number at the end of each period."""
    look(-1)
    while True:
        elapsed = (CLOCK.now() - began) / 1e9
        number = int(elapsed / period)
        gevent.sleep((number + 1) * period - elapsed)
        look(number)
