"""Every promise can fail: each probe goes red on its mistakes, for the right reason."""

from __future__ import annotations

import pytest
from redis import Redis

from labserver.mistakes import MISTAKES
from labserver.probes import PROBES, PROMISES, Broken, World
from labserver.stages import STAGES

# Seconds until what never comes counts as missing. The right version is given more
# (test_promises.py), and what it does in time is done in a few milliseconds.
PATIENCE = 1.0

REASONS = {
    "unguarded-parse": "closed with 1011 before the error bad_json",
    "double-numbers": r"0 came back as 0\.0",
    "no-size-limit": "bytes too many",
    "accept-then-check": "HTTP 101 instead of 401 for no token",
    "algorithm-from-token": "HTTP 101 instead of 401 for .token=",
    "prefix-compare": "HTTP 101 instead of 401 for .token=",
    "no-origin-check": "HTTP 101 instead of 403 for http://elsewhere",
    "expiry-once": "in vain for the end of a connection whose token expired",
    "listener-per-join": "duplicated 51",
    "rooms-never-forgotten": "in vain for rooms without members to go",
    "live-set": "in vain for a message while another member leaves",
    "encoded-per-member": "6 frames were built for 3 messages",
    "write-per-message": "20 writes for 20 messages",
    "sweep-returns": r"\d of 6 dead peers still open",
    "close-instead-of-abort": r"\d of 6 dead peers still open",
    "pings-in-one-tick": "24 of 24 pings within",
    "library-keepalive": r"\d of 6 dead peers still open",
    "unbounded-buffer": "bytes held, where 65536 may be",
    "await-in-the-loop": "in vain for the healthy reader's messages",
    "dropped-in-silence": "lost without a word",
    "control-dropped": "of 100 answers were dropped",
    "deliver-locally": "two members heard otherwise",
    "own-message-twice": "duplicated",
    "subscribe-to-everything": "2 replicas were told, 1 have members",
    "unsubscribe-races-join": "in vain for a message after leaving and joining",
    "no-resubscribe": "in vain for what was said after the link broke",
    "no-epoch": "recovered by a cursor .*nonsense",
    "partial-replay": "recovered, with 20 of 21 missed messages",
    "replay-then-subscribe": "lost without a word",
    "live-overtakes-replay": "reordered [1-9]",
    "ageless": "in vain for old messages to be forgotten",
    "one-ring": "5 messages forgotten",
    "no-jitter": "1000 of 1000 clients return at first",
    "doubled-before-use": "waits up to 1 s at first, where 0.5",
    "cap-after-jitter": r"9\d\d of 1000 clients return at last",
    "returns-anyway": "came back after 4403",
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_promise_goes_red_on_its_mistake(
    name: str, redis: Redis, redis_url: str
) -> None:
    mistake = MISTAKES[name]
    world = World(mistake.stage, redis_url, mistake=name, patience=PATIENCE)
    with pytest.raises(Broken, match=REASONS[name]) as red:
        await PROBES[mistake.breaks](world)
    assert red.value.__cause__ is None  # no crash elsewhere that was taken for it


def test_every_mistake_breaks_a_probe_of_its_own_stage() -> None:
    assert REASONS.keys() == MISTAKES.keys()
    for mistake in MISTAKES.values():
        names = [probe.__name__ for probe in PROMISES[mistake.stage]]
        assert mistake.breaks in names, mistake.name


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_has_a_mistake(name: str) -> None:
    assert any(mistake.breaks == name for mistake in MISTAKES.values())


def test_there_are_mistakes_at_every_stage() -> None:
    assert {mistake.stage for mistake in MISTAKES.values()} == STAGES.keys()
    assert len(MISTAKES) >= 20
