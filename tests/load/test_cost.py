"""The cost of a received message, client by client."""

from __future__ import annotations

from argparse import Namespace

import pytest

from labserver.load import cost

pytestmark = pytest.mark.long


@pytest.mark.timeout(60)
async def test_clients_are_measured_in_processes_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "CLIENTS", ("user", "websocket-client"))
    options = Namespace(connections=2, rate=50.0, seconds=0.2, rounds=1)
    found = await cost.measure(options)
    assert list(found) == ["user", "websocket-client"]
    assert all(rounds[0]["messages"] for rounds in found.values())
