"""The page of the wire contract says what the code does, and its clients work."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import fields

from labserver.contract import closing, messages
from labserver.contract.messages import DEPTH_LIMIT, ELEMENTS_LIMIT, ROOM_PATTERN
from labserver.contract.schema import ERRORS, STATUSES
from labserver.judge.clients import CHECKS
from labserver.judge.outside import TOLD
from labserver.processes.cluster import running_replica
from labserver.server.intake import HEAD_LIMIT
from labserver.settings import Settings
from labserver.stages import STAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "notebooks" / "reference" / "contract.md").read_text()
TYPES = {
    kind.__struct_config__.tag: kind
    for kind in vars(messages).values()
    if isinstance(kind, type)
    and issubclass(kind, messages._Client | messages._Server)
    and kind not in (messages._Client, messages._Server)
}


def table(heading: str) -> dict[str, list[str]]:
    """Return the first table after a heading: first cell, without ``, to the others."""
    rows = PAGE.split(f"{heading}\n", 1)[1].split("\n|---", 1)[1].split("\n\n", 1)[0]
    cells = [row.strip("| ").split(" | ") for row in rows.splitlines()[1:]]
    return {first.strip("`"): more for first, *more in cells}


def named(cell: str) -> tuple[set[str], set[str]]:
    """Return the fields of a cell: those that are required, and the optional ones."""
    found = re.findall(r"`(\w+)`(\?)?", cell)
    return (
        {name for name, optional in found if not optional},
        {name for name, optional in found if optional},
    )


def known(kind: type[msgspec.Struct]) -> tuple[set[str], set[str]]:
    every = {each.encode_name: each.required for each in fields(kind)}
    return (
        {name for name, required in every.items() if required},
        {name for name, required in every.items() if not required},
    )


@pytest.mark.parametrize("heading", ["## Client to server", "## Server to client"])
def test_every_message_is_there_with_its_fields(heading: str) -> None:
    side = messages._Client if "Client to" in heading else messages._Server
    kinds = {tag: kind for tag, kind in TYPES.items() if issubclass(kind, side)}
    rows = table(heading)
    if side is messages._Server:  # these two have no Struct: bytes are copied through
        assert rows.pop("echo")
        assert named(rows.pop("message")[0]) == (
            {"room", "seq", "from", "payload"},
            set(),
        )
    assert rows.keys() == kinds.keys()
    for tag, (cell, *_) in rows.items():
        assert named(cell) == known(kinds[tag]), tag


def test_every_close_code_is_there_with_what_a_client_may_do() -> None:
    words = {
        closing.Return.SOON: "yes",
        closing.Return.LATER: "later",
        closing.Return.NEW_TOKEN: "with a new token",
        closing.Return.NEVER: "no",
    }
    rows = table("### Closes")
    assert rows.keys() == {str(code) for code in closing.CLOSES}
    for code, (reason, comes_back) in rows.items():
        close = closing.CLOSES[int(code)]
        assert reason.startswith(close.reason)
        assert comes_back.startswith(words[close.comes_back])


def test_every_error_code_is_there() -> None:
    source = "".join(path.read_text() for path in (ROOT / "labserver").rglob("*.py"))
    used = set(re.findall(r'BadMessage\(\s*"(\w+)"', source)) | {"broker_down"}
    assert table("### Errors").keys() == used == ERRORS.keys()


def test_statuses_say_whether_a_client_may_come_back() -> None:
    rows = table("### Before the upgrade: HTTP")
    assert rows.keys() == set(map(str, STATUSES))
    for status, (_, comes_back) in rows.items():
        after = closing.after_status(int(status))
        assert (after is closing.Return.SOON) == (comes_back == "later"), status
        assert (after is closing.Return.NEW_TOKEN) == ("token" in comes_back), status


def test_limits_and_settings_are_those_of_the_code() -> None:
    settings = Settings()
    assert f"{ELEMENTS_LIMIT:,}\n  values" in PAGE
    assert f"{DEPTH_LIMIT} levels" in PAGE
    assert f"more than {HEAD_LIMIT:,} bytes" in PAGE
    assert ROOM_PATTERN.removeprefix(r"\A").removesuffix(r"\Z") in PAGE
    assert f"a message may have {settings.message_size_limit:,} bytes" in PAGE
    assert f"in {settings.rooms_limit} rooms already" in PAGE
    assert f"than {settings.message_rate_limit:,.0f} messages a second" in PAGE
    rows = table("## A server to be judged")
    told = {name: rows[f"LAB_{name.upper()}"][-1] for name in TOLD}
    assert told == {name: f"{getattr(settings, name):g}" for name in TOLD} | {
        "outbox_limit": f"{settings.outbox_limit}"
    }
    assert rows.keys() - {f"LAB_{name.upper()}" for name in TOLD} == {
        *("PORT", "LAB_STAGE", "LAB_SECRET", "LAB_REDIS_URL"),
    }


def test_stages_and_promises_are_those_of_the_code() -> None:
    rows = PAGE.rsplit("| stage | promise |", 1)[1].split("\n\n")[0].splitlines()[2:]
    found = dict(row.strip("| ").split(" | ") for row in rows)
    assert found == {name: each.promise for name, each in STAGES.items()}


def test_checks_of_clients_are_those_of_the_code() -> None:
    rows = table("It is judged by when it comes back, and with what:")
    asked = {check.__name__: [check.__doc__] for check in CHECKS}
    assert rows == asked


def code(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


async def test_client_in_python_works(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(code("python"))
    assert len(code("python").split("async def", 1)[1].splitlines()) <= 20
    async with running_replica("resume", "--without", "broker") as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, tmp_path / "client.py", server.url, server.token("ann")),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"'payload': 'hi'" in said


@pytest.mark.needs("Node")
async def test_client_in_javascript_works(tmp_path: Path) -> None:
    (tmp_path / "client.mjs").write_text(code("javascript"))
    async with running_replica("resume", "--without", "broker") as server:
        process = await asyncio.create_subprocess_exec(
            *("node", "--experimental-websocket", tmp_path / "client.mjs"),
            *(server.url, server.token("ann")),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"payload: 'hi'" in said
