"""One process decides the order of its rooms, and remembers what it must."""

from __future__ import annotations

import pytest

from labserver.stages.keys import Keys
from labserver.stages.local_broker import LocalBroker
from tests.conftest import Running, peer


@pytest.mark.parametrize("rooms", [1, 10], ids=["one room", "many rooms"])
async def test_flood_of_keys_pushes_out_nobody_elses(
    rooms: int, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalBroker, "keys_limit", 100)
    async with (
        running("resume", without=("broker",)) as server,
        peer(server) as ann,
        peer(server, "mallory") as mallory,
    ):
        order = {"type": "publish", "room": "red", "payload": 1, "key": "order-17"}
        first = await ann.ask(**order)
        for number in range(300):
            await mallory.ask(
                type="publish",
                room=f"red{number % rooms or ''}",
                payload=1,
                key=f"key-{number}",
            )
        assert (await ann.ask(**order))["seq"] == first["seq"]
        broker = server.parts.broker
        assert broker.keys.count <= 100
        # Of its own, the flooder has the newest.
        last = await mallory.ask(
            type="publish", room=f"red{299 % rooms or ''}", payload=1, key="key-299"
        )
        again = await mallory.ask(
            type="publish", room=f"red{299 % rooms or ''}", payload=1, key="key-299"
        )
        assert again["seq"] == last["seq"]


def test_key_is_forgotten_with_its_time_and_with_its_numbering() -> None:
    keys = Keys(limit=10, ttl=5.0)
    keys.note("ann", "red", "k", "e1", 7, now=0.0)
    assert keys.seq("ann", "red", "k", "e1", now=4.9) == 7
    assert keys.seq("ann", "red", "k", "e1", now=5.0) is None
    assert keys.seq("ann", "red", "k", "e2", now=1.0) is None
    assert keys.seq("bob", "red", "k", "e1", now=1.0) is None
    assert keys.seq("ann", "blue", "k", "e1", now=1.0) is None


def test_one_user_may_fill_what_is_there() -> None:
    keys = Keys(limit=80, ttl=5.0)
    for number in range(80):
        keys.note("ann", "red", f"{number}", "e", number, now=0.0)
    assert keys.count == 80
    keys.note("bob", "red", "k", "e", 1, now=1.0)
    assert keys.count == 70
    assert keys.seq("bob", "red", "k", "e", now=1.0) == 1
    assert keys.seq("ann", "red", "79", "e", now=1.0) == 79


def test_what_has_expired_goes_first() -> None:
    keys = Keys(limit=80, ttl=5.0)
    for number in range(79):
        keys.note("ann", "red", f"{number}", "e", number, now=0.0)
    keys.note("bob", "red", "k", "e", 1, now=4.0)
    keys.note("bob", "red", "l", "e", 2, now=6.0)
    assert keys.count == 2
    assert set(keys.users) == {"bob"}


def test_noting_a_key_again_counts_it_once() -> None:
    keys = Keys(limit=80, ttl=5.0)
    for seq in range(3):
        keys.note("ann", "red", "k", f"e{seq}", seq, now=float(seq))
    assert keys.count == 1
    assert keys.seq("ann", "red", "k", "e2", now=3.0) == 2


async def test_rooms_without_members_are_forgotten_when_there_are_too_many(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalBroker, "logs_limit", 10)
    async with (
        running("resume", without=("broker",), message_rate_limit=0) as server,
        peer(server) as ann,
    ):
        await ann.join("red")
        for number in range(100):
            await ann.ask(
                type="publish", room=f"blue{number}", payload=1, key=f"{number}"
            )
        assert len(server.parts.broker.logs) <= 11
        assert (await ann.ask(type="publish", room="red", payload=1))["seq"] == 1
