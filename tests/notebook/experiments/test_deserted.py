"""A client sees at once that a process died, and a vanished host only by a watch."""

from __future__ import annotations

import pytest

from labserver.notebook.experiments.deserted import HEARTBEAT, deserted

pytestmark = pytest.mark.timeout(60)


async def test_client_notices_a_process_that_dies() -> None:
    noticed = await deserted(waits=20)
    assert noticed.seconds is not None
    assert repr(noticed).startswith("the process dies: noticed after ")


async def test_client_that_does_not_watch_notices_no_host_that_vanishes() -> None:
    noticed = await deserted(host=True, waits=3 * HEARTBEAT)
    assert noticed.seconds is None
    assert repr(noticed) == "the host vanishes: not noticed within 1.5 s"


async def test_client_that_watches_notices_it_after_two_heartbeats() -> None:
    noticed = await deserted(host=True, watches=True, waits=20)
    assert noticed.seconds is not None
    # The last ping may have come almost a whole interval before.
    assert noticed.seconds > HEARTBEAT / 2
