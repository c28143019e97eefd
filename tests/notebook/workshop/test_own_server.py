"""A learner's own server is judged stage by stage, and loaded beside the lab's."""

from __future__ import annotations

from pathlib import Path

import pytest

from labserver.errors import SettingsError
from labserver.notebook import duel, judge, starter
from labserver.notebook.workshop.duel import LOADS, ROUNDS, THEIRS
from tests.support.chapters import FOLDER

OWN = FOLDER / "reference" / "own_server.py"

pytestmark = [pytest.mark.long, pytest.mark.timeout(60)]


def write(name: str, text: str) -> None:
    Path(name).write_text(text)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_starter_is_judged_up_to_the_first_promise_that_it_breaks() -> None:
    starter("my_server.py")
    judged = await judge("my_server.py", stage="auth", patience=1.0)
    assert judged.kept == ["echo"]
    assert {each.stage for each in judged.findings} == {"echo", "auth"}
    wrong = sum(each.stage == "auth" for each in judged.findings)
    assert f"{wrong} of {wrong} checks are broken" in repr(judged)
    shown = judged._repr_markdown_()
    assert "| HTTP 101 instead of 401 for no token |" in shown
    assert "--stage auth -- python my_server.py`" in shown


async def test_promise_after_a_broken_one_is_not_asked_for() -> None:
    starter("my_server.py")  # which echoes the whole message, also at stage rooms
    judged = await judge("my_server.py", stage="rooms", patience=1.0)
    assert {each.stage for each in judged.findings} == {"echo"}
    assert "from stage rooms on only the payload is echoed" in repr(judged)


async def test_starter_for_node_is_judged_too() -> None:
    starter("my_server.mjs")
    judged = await judge("my_server.mjs", patience=1.0)
    # Node finds `ws` beside the file only; that it is missing is a sentence.
    assert (
        judged.kept == ["echo"]
        or "ERR_MODULE_NOT_FOUND" in judged.trouble
        or ("Node.js" in judged.trouble)
    )


def test_starter_does_not_touch_a_file_that_is_there() -> None:
    write("my_server.py", "mine")
    assert "stays as it is" in starter("my_server.py")
    assert Path("my_server.py").read_text() == "mine"


def test_starter_for_another_language_says_which_there_are() -> None:
    with pytest.raises(SettingsError, match=r"ends in \.py or \.mjs"):
        starter("my_server.cob")


async def test_program_that_does_not_start_is_said_without_its_place() -> None:
    write("my_server.py", "def broken(:\n")
    judged = await judge("my_server.py")
    assert "cannot be judged yet" in repr(judged)
    assert judged.trouble.startswith("python my_server.py ended by itself")
    assert not judged.kept and not judged.findings


@pytest.mark.parametrize(
    ("target", "words"),
    [("none.py", r"starter\('none.py'\) writes one"), (" ", "wants a file")],
)
async def test_what_is_no_program_is_said(target: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        await judge(target)


async def test_stage_that_does_not_exist_is_said() -> None:
    starter("my_server.py")
    with pytest.raises(SettingsError, match="no stage 'room'"):
        await judge("my_server.py", stage="room")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stage", ["auth", "resume"])
async def test_own_server_of_the_reference_keeps_its_promises(stage: str) -> None:
    # It is told its stage, so every one of them is asked of the same file.
    judged = await judge(str(OWN), stage=stage, patience=10.0)
    assert judged.kept[-1] == stage, repr(judged)
    assert "✗" not in repr(judged)


async def test_duel_measures_both_servers_under_every_load() -> None:
    measured = await duel(str(OWN))
    assert measured.taken.keys() == LOADS.keys()
    for servers in measured.taken.values():
        assert servers.keys() == {str(OWN), THEIRS}
        for values in servers.values():
            assert len(values) == ROUNDS and all(value > 0 for value in values)
    assert measured.ratio("16 in flight") > 0
    assert "µs a delivery" in repr(measured)
