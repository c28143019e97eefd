"""The AsyncAPI document holds for what is really said, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import Redis

from labserver.contract import closing
from labserver.contract.decoding import decode
from labserver.contract.schema import CLIENT, SERVER, asyncapi
from labserver.contract.tokens import issue
from labserver.errors import BadMessage
from labserver.judge import PROMISES, Skipped, World, peers
from labserver.judge.run import checks_up_to
from labserver.stages import STAGES
from tests.conftest import Command

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

DOCUMENT = json.loads(json.dumps(asyncapi()))
SCHEMAS = DOCUMENT["components"]["schemas"]


@cache
def validator(operation: str) -> Draft202012Validator:
    """Return what validates a message of one direction: it is one of its schemas."""
    # Its import parses grammars for seconds: only the process that needs it waits.
    from jsonschema import Draft202012Validator

    names = [
        each["$ref"].rpartition("/")[2]
        for each in DOCUMENT["operations"][operation]["messages"]
    ]
    one = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    return Draft202012Validator({**DOCUMENT, "oneOf": one})


def test_document_is_asyncapi_3_and_its_references_lead_somewhere() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"info", "channels", "operations", "components"} <= DOCUMENT.keys()
    for name in SCHEMAS:
        validator("toClient").check_schema(SCHEMAS[name])
    references = [
        found for found in json.dumps(DOCUMENT).split('"') if found.startswith("#/")
    ]
    assert len(references) > 40
    for reference in references:
        place = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert place
    (channel,) = DOCUMENT["channels"].values()
    assert channel["x-headers"].keys() == {"Message-Size-Limit", "Retry-After"}
    assert DOCUMENT["x-closes"].keys() == {str(code) for code in closing.CLOSES}


def test_command_prints_the_document(command: Command) -> None:
    status, out, err = command("schema")
    assert (status, err) == (0, "")
    assert json.loads(out) == DOCUMENT


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Direction and text of every message of the checks' clients."""
    texts: list[tuple[str, str]] = []

    def note(who: str, way: str, text: str) -> None:
        texts.append((way, text))

    monkeypatch.setattr(peers, "note", note)
    return texts


# These take seconds, and say nothing that others do not say.
SLOW = {
    *("who_reads_slowly_stays", "a_stuck_reader_holds_up_nobody"),
    *("who_is_stuck_is_ended", "no_loss_is_silent", "others_may_vanish"),
    *("who_vanished_is_ended", "pings_are_no_burst"),
    "who_reads_no_more_is_ended",
}


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_what_checks_of_all_stages_say_and_hear_is_valid(
    said: list[tuple[str, str]], redis_url: str, redis: Redis
) -> None:
    """Counts the kinds, so that a kind that nobody says any more is noticed."""
    for stage in STAGES:
        world = World(stage, redis_url if STAGES[stage].number >= 6 else "")
        for own, check in checks_up_to(PROMISES, stage):
            if own == stage and check.__name__ not in SLOW:
                redis.flushall()  # checks of this world talk in the same rooms
                with contextlib.suppress(Skipped):
                    await check(world)
    kinds: Counter[tuple[str, str]] = Counter()
    for way, text in said:
        with contextlib.suppress(ValueError):
            message = json.loads(text)
            if way == "received" and isinstance(message, dict):
                validator("toClient").validate(message)
                kinds[way, message["type"]] += 1
            elif way == "sent" and validator("fromClient").is_valid(message):
                kinds[way, message["type"]] += 1
    print(sorted(kinds.items()))
    heard = {kind for way, kind in kinds if way == "received"}
    rare = {"present", "presence", "refreshed"}  # of presence and refresh, see below
    assert heard >= {each.__struct_config__.tag for each in SERVER} - rare
    assert sum(kinds.values()) > 500


async def test_presence_and_refresh_are_valid_too() -> None:
    async with (
        World("resume", without=("broker",)).inside() as server,
        peers.peer(server, "ann") as ann,
        peers.peer(server, "bob") as bob,
    ):
        heard = [ann.hello, await ann.join("a", presence=True)]
        heard.append(await ann.until("present"))
        await bob.join("a", presence=True)
        heard.append(await ann.until("presence"))
        token = issue(peers.SECRET, "ann")
        heard.append(await ann.ask(type="refresh", token=token))
    assert [each["type"] for each in heard[2:]] == ["present", "presence", "refreshed"]
    for message in heard:
        validator("toClient").validate(dict(message))


# Made from the document: what it allows is understood, what it forbids is refused

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
words = st.sampled_from(["lobby", "", "a b", "x" * 65, "team:1", "e"])
fields = st.fixed_dictionaries(
    {"type": st.sampled_from([*(each.__struct_config__.tag for each in CLIENT), "no"])},
    optional={
        "room": words | values,
        "payload": values,
        "token": words | values,
        "key": words | values,
        "ref": words | st.integers(-(2**70), 2**70) | values,
        "presence": st.booleans() | values,
        "after": values
        | st.fixed_dictionaries({"epoch": words, "seq": st.integers(-2, 2**64)}),
    },
)


@settings(max_examples=400, deadline=None)
@given(fields)
@example({"type": "ping", "ref": 2**63})  # an integer that 64 bits do not hold
@example({"type": "ping", "ref": -(2**63)})
@example({"type": "ping", "ref": 1.5})
def test_decoder_and_document_agree(message: dict[str, Any]) -> None:
    try:
        decode(json.dumps(message, ensure_ascii=False))
        understood = True
    except BadMessage:
        understood = False
    assert validator("fromClient").is_valid(message) == understood


@settings(max_examples=5, deadline=None)
@given(st.lists(fields, min_size=20, max_size=40))
def test_whatever_is_said_is_answered_by_the_document(
    messages: list[dict[str, Any]],
) -> None:
    async def talk() -> None:
        world = World("resume", without=("broker",))
        async with world.inside() as server, peers.peer(server) as ann:
            for message in messages:
                if message["type"] != "refresh":  # a bad token ends the connection
                    await ann.say(json.dumps(message, ensure_ascii=False))
            for heard in await ann.heard():
                validator("toClient").validate(dict(heard))

    asyncio.run(talk())
