"""A small storm: a replica dies, and its clients reconnect to others."""

from __future__ import annotations

import pytest

from chaos.storm import storm

pytestmark = pytest.mark.long


@pytest.mark.timeout(90)
async def test_everybody_comes_back_and_misses_nothing() -> None:
    report = await storm(150, admission_rate=10.0)
    assert report.stranded == 50
    assert report.back_all < float("inf")
    assert report.refused > 0  # some came too early, were refused, and tried again
    assert (report.missed, report.unclean) == (0, 0)
