"""Dialects: the same scenarios load servers that know nothing of the lab."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from labserver.contract.messages import Ack, Error, Hello, Joined
from labserver.load.addresses import normal
from labserver.load.dialects import SHIPPED, Delivery, Dialect, Other, Reply, named
from tests.load.test_loadtests import LOADTESTS, figures, locust
from tests.support import chat_server

pytestmark = pytest.mark.long

PAYLOAD = {"due": 5, "sent": 6, "replica": "", "number": 7, "pad": "..."}


@asynccontextmanager
async def chatting(what: str = "nothing", number: int = 0) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, chat_server.__file__, what, str(number)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            yield f"ws://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


WRONG = {  # what is wrong -> the verdict
    "nothing": (0, "everything arrived, once and in order"),
    "drop": (1, "5 lost in fanout/subscribers"),
    "double": (1, "5 duplicated in fanout/subscribers"),
    "swap": (1, "5 reordered in fanout/subscribers"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", WRONG)
async def test_server_without_numbers_is_judged_to_the_message(
    what: str, tmp_path: Path
) -> None:
    status, words = WRONG[what]
    async with chatting(what, 10) as url:
        code, out, err = await locust(
            *("--dialect", "chat", "--scenario", "fanout", "--host", url),
            *("-u", "5", "-r", "5", "-t", "2s", "--lag-limit", "10000"),
            *("--results", str(tmp_path), "--no-pictures"),
        )
    assert (code, words in out) == (status, True), out + err
    tally = figures(tmp_path)["completeness"]["fanout/subscribers"]
    assert tally["expected"] > 5 * 10


OF_A_USER = """
from labserver.load.dialects.chat import Chat

class Mine(Chat):
    pass
"""


@pytest.mark.timeout(60)
async def test_dialect_of_a_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OF_A_USER)
    async with chatting() as url:
        code, out, err = await locust(
            *("--dialect", f"{file}:Mine", "--host", url, "-u", "5", "-r", "5"),
            *("-t", "1s", "--scenario", "fanout", "--lag-limit", "10000"),
            *("--results", str(tmp_path), "--no-pictures"),
        )
    assert code == 0, out + err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "there is no dialect 'nonsense': it is one of lab, chat"),
        ("no_such_file.py:Chat", "cannot be used"),
        ("json:dumps", "is not a labserver.load.Dialect"),
    ],
)
async def test_dialect_that_cannot_be_is_said_in_a_sentence(
    name: str, words: str
) -> None:
    code, _, err = await locust(
        *("--dialect", name, "--host", "ws://127.0.0.1:1", "-t", "1s")
    )
    assert code == 2
    assert words in err
    assert "Traceback" not in err


async def test_server_that_does_not_greet_as_expected_is_said_in_a_sentence() -> None:
    async with chatting() as url:
        code, _, err = await locust("--host", url, "-t", "1s", LAB_SECRET="x" * 32)
    assert code == 3
    assert "the right --dialect?" in err


# What each language says, as its documentation has it


def said(dialect: Dialect, *lines: str) -> list[object]:
    return [each for line in lines for each in dialect.read(line.encode())]


def in_room(dialect: Dialect) -> list[bytes]:
    return [*dialect.opened(), *dialect.enter("red", None)]


def message(seq: int) -> Delivery:
    return msgspec.convert(
        {"type": "message", "seq": seq, "payload": PAYLOAD}, Delivery
    )


def pad(line: str) -> str:
    return line.replace("PAYLOAD", msgspec.json.encode(PAYLOAD).decode())


TALKS = {
    "chat": (
        [b'{"type": "join", "room": "red"}'],
        ['{"type":"joined","room":"red"}', '{"type":"message","data":PAYLOAD}'],
        [Joined, message(0)],
    ),
    "socketio": (
        [b'420["join", "red"]'],
        [
            *('0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000}',),
            *('40{"sid":"y"}', "430[]", "2", "431[]", '42["message",PAYLOAD]'),
            *('42["news",1]', '44{"message":"Not authorized"}'),
        ],
        [Reply(b"40"), Hello, Joined, Reply(b"3"), Ack, message(0), Error],
    ),
    "phoenix": (
        [b'["join", "join", "room:red", "phx_join", {}]'],
        [
            '["join","join","room:red","phx_reply",{"status":"ok","response":{}}]',
            '["join","1","room:red","phx_reply",{"status":"ok","response":{}}]',
            '["join",null,"room:red","new_msg",PAYLOAD]',
            '[null,"beat","phoenix","phx_reply",{"status":"ok","response":{}}]',
            '["join","2","room:red","phx_reply",{"status":"error","response":{}}]',
            '["join","join","room:red","phx_error",{}]',
        ],
        [Joined, Ack, message(0), Error, Error],
    ),
    "centrifugo": (
        [
            b'{"id": 1, "connect": {}}',
            b'{"id": 2, "subscribe": {"channel": "red"}}',
        ],
        [
            '{"id":1,"connect":{"client":"x","version":"6","ping":25,"pong":true}}',
            '{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":3,'
            '"positioned":true}}',
            '{"id":4,"publish":{}}\n{"push":{"channel":"red","pub":{"data":PAYLOAD,'
            '"offset":4}}}',
            *("{}", '{"push":{"channel":"red","join":{"info":{}}}}'),
            '{"id":5,"error":{"code":103,"message":"permission denied"}}',
        ],
        [Hello, Joined, Ack, message(4), Reply(b"{}"), Error],
    ),
}


@pytest.mark.parametrize("name", TALKS)
def test_words_of_a_language_are_understood(name: str) -> None:
    opens, lines, meant = TALKS[name]
    dialect = named(name)("ann")
    assert in_room(dialect) == opens
    found = said(dialect, *map(pad, lines))
    assert [
        type(each) if isinstance(want, type) else each
        for each, want in zip(found, meant, strict=True)
    ] == meant
    payload = msgspec.json.encode(PAYLOAD)
    published = dialect.publish("red", payload, 1)
    assert payload in published
    assert b"red" in published


def test_centrifugo_comes_back_with_its_position() -> None:
    dialect = named("centrifugo")("ann")
    (asked,) = dialect.enter("red", {"epoch": "e", "seq": 3})
    assert msgspec.json.decode(asked)["subscribe"] == {
        "channel": "red",
        "recover": True,
        "epoch": "e",
        "offset": 3,
    }
    missed = '{"data":PAYLOAD,"offset":4}'
    answer = f'"epoch":"e","offset":4,"recovered":true,"publications":[{missed}]'
    joined, missed_one = said(dialect, pad(f'{{"id":2,"subscribe":{{{answer}}}}}'))
    assert isinstance(joined, Joined)
    assert (joined.seq, joined.recovered) == (4, True)
    assert missed_one == message(4)


def test_message_of_somebody_else_is_no_message_of_the_test() -> None:
    (found,) = named("chat")("ann").read(b'{"type":"message","data":"hello"}')
    assert found == Other(0)


def test_every_dialect_of_the_lab_has_a_talk() -> None:
    assert TALKS.keys() | {"lab"} == SHIPPED.keys()


@pytest.mark.parametrize("host", ["ws://h:1", "ws://h:1/", "http://h:1//"])
def test_dialect_may_append_a_path_to_the_url_of_a_server(host: str) -> None:
    assert normal(host) == "ws://h:1"


def test_dialect_of_the_readme_speaks_its_made_up_language() -> None:
    text = (LOADTESTS / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?class Mine.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 40
    names: dict[str, type[Dialect]] = {}
    exec(code, names)
    dialect = names["Mine"]("ann")
    assert dialect.address("ws://h") == "ws://h/socket?name=ann"
    assert in_room(dialect) == [b"SUB red"]
    joined, one, wrong = said(
        dialect, "OK SUB red", pad("MSG red PAYLOAD"), "HM ?", "ERR no"
    )
    assert isinstance(joined, Joined)
    assert (one, type(wrong)) == (message(0), Error)
    assert dialect.publish("red", b"{}", 1) == b"PUB red {}"
