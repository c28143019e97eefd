"""Tokens expire on open connections, also when a clock is set."""

from __future__ import annotations

import time

import jwt
import pytest

from tests.conftest import SECRET, Running, peer


def token(ttl: float) -> str:
    return jwt.encode({"sub": "ann", "exp": time.time() + ttl}, SECRET)


def step(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the wall clock of this process forward, or back."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + seconds)


async def test_clock_that_is_set_back_prolongs_no_token(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running("auth") as server, peer(server, token=token(1.0)) as ann:
        step(monkeypatch, -3600)
        assert await ann.closed() == 4401


async def test_token_ends_when_the_clock_is_set_beyond_its_expiry(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labserver.stages.auth.LOOK", 0.1, raising=False)
    async with running("auth") as server, peer(server, token=token(3600)) as ann:
        step(monkeypatch, 7200)
        assert await ann.closed() == 4401


async def test_refreshed_token_lasts_though_the_clock_was_set_back(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running("auth") as server, peer(server, token=token(1.0)) as ann:
        step(monkeypatch, -3600)
        longer = token(600)
        assert (await ann.ask(type="refresh", token=longer))["type"] == "refreshed"
        (connection,) = server.connections
        assert connection.expiry is not None
        left = connection.expiry.when() - connection.loop.time()
        assert left > 5
