"""A learner's copies of the chapters: without outputs, and never written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labserver.cli.folder import prepare
from labserver.errors import SettingsError

pytestmark = pytest.mark.timeout(20)


def chapter(source: str) -> str:
    outputs = [{"output_type": "stream", "name": "stdout", "text": "It was 42."}]
    cell = {"cell_type": "code", "id": "00-01", "metadata": {}, "source": source}
    cells = [{**cell, "outputs": outputs, "execution_count": 1}]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks"
    (folder / "reference").mkdir(parents=True)
    (folder / "reference" / "contract.md").write_text("the contract")
    (folder / "00_start.ipynb").write_text(chapter("1"))
    (folder / "01_echo.ipynb").write_text(chapter("2"))
    return folder


def test_copies_have_no_outputs_and_the_reference_beside_them(
    project: Path, tmp_path: Path
) -> None:
    said = prepare(project, tmp_path / "mine")
    copy = (tmp_path / "mine" / "01_echo.ipynb").read_text()
    assert "It was 42" not in copy and '"execution_count": null' in copy
    assert (tmp_path / "mine" / "reference" / "contract.md").exists()
    assert said[1] == "2 were written: 00_start.ipynb to 01_echo.ipynb"
    assert len(prepare(project, tmp_path / "mine")) == 1  # all is there already


def test_changed_copy_stays_and_an_untouched_one_follows_the_project(
    project: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    prepare(project, mine)
    (mine / "00_start.ipynb").write_text("what I wrote")
    assert len(prepare(project, mine)) == 1  # nothing new: nothing is said of it
    for name in ("00_start", "01_echo"):
        (project / f"{name}.ipynb").write_text(chapter("3"))
    said = prepare(project, mine)
    assert (mine / "00_start.ipynb").read_text() == "what I wrote"
    assert '"source": "3"' in (mine / "01_echo.ipynb").read_text()
    assert "rename to get): 00_start.ipynb" in said[-1]


def test_copy_that_was_renamed_is_written_anew(project: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    prepare(project, mine)
    (mine / "00_start.ipynb").rename(mine / "old.ipynb")
    prepare(project, mine)
    assert (mine / "00_start.ipynb").exists() and (mine / "old.ipynb").exists()


def test_folder_of_the_project_itself_is_refused(project: Path) -> None:
    before = (project / "00_start.ipynb").read_text()
    with pytest.raises(SettingsError, match="git tracks"):
        prepare(project, project)
    assert (project / "00_start.ipynb").read_text() == before


def test_folder_that_cannot_be_written_is_said(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        prepare(project, tmp_path / "file" / "mine")
