"""A drain's goodbyes: in groups, over some seconds, each with a time to return."""

from __future__ import annotations

import asyncio

import pytest

from labserver.contract import closing
from labserver.contract.closing import Close
from labserver.server.goodbye import GOODBYES, say_goodbye


class Leaving:
    """A member that notes how long goodbyes had taken when it got its own."""

    slept = 0.0

    def __init__(self) -> None:
        self.after = -1.0
        self.close: Close | None = None

    def end(self, close: Close) -> None:
        self.after, self.close = Leaving.slept, close


@pytest.mark.parametrize(
    ("rate", "within", "lasts"),
    [(100.0, 5.0, 1.0), (100.0, 0.4, 0.4), (0.0, 5.0, 0.1)],
    ids=["as admitted", "as long as there is", "rate unknown"],
)
async def test_goodbyes_are_spread_over_the_time_that_returns_take(
    rate: float, within: float, lasts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(seconds: float) -> None:
        Leaving.slept += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(Leaving, "slept", 0.0)
    members = [Leaving() for _ in range(5 * GOODBYES)]
    await say_goodbye(members, within, rate)  # type: ignore[arg-type]
    assert Leaving.slept == pytest.approx(lasts)
    at = sorted(each.after for each in members)
    assert [at[n * GOODBYES] for n in range(5)] == pytest.approx(
        [n * lasts / 5 for n in range(5)]
    )
    times = []
    for each in members:
        assert each.close is not None and each.close.code == closing.DRAINING.code
        times.append(closing.retry_after(each.close.reason) or 0.0)
    assert 0.5 * max(1.0, 100 / (rate or 1000)) < max(times) <= 1.01
