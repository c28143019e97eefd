"""The tables of the book that are made from the code say all of it."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from labserver.cli import app
from labserver.contract.schema import asyncapi
from labserver.settings import Settings, variable
from notebooks.book import generated
from tests.conftest import Command, Running
from tests.support.chapters import FOLDER

PAGES = {page.stem: page.read_text() for page in (FOLDER / "reference").glob("*.md")}


def cells(markdown: str) -> list[list[str]]:
    """Return the cells of every row of the tables in a text, without their heads."""
    rows = re.findall(r"^\| (.*) \|$", markdown, re.MULTILINE)
    return [row.split(" | ") for row in rows if not row.startswith("---")]


def test_every_table_has_its_place_on_a_page() -> None:
    marks = [mark for page in PAGES.values() for mark in generated.MARK.findall(page)]
    assert sorted(marks) == sorted(generated.TABLES)


def test_mark_that_names_no_table_fails_the_build() -> None:
    with pytest.raises(KeyError, match="nothing"):
        generated.fill("text\n<!-- from the code: nothing -->\ntext")


def test_text_around_a_mark_stays() -> None:
    filled = generated.fill("before\n\n<!-- from the code: settings -->\n\nafter\n")
    assert filled == f"before\n\n{generated.settings()}\n\nafter\n"


def test_every_setting_is_there_and_the_secret_has_no_flag() -> None:
    rows = {row[0] for row in cells(generated.settings())[1:]}
    assert len(rows) == len(fields(Settings))
    for each in fields(Settings):
        assert any(f"`{variable(each)}`" in name for name in rows)
    assert not any("--secret" in name for name in rows)


async def test_every_metric_is_there_with_its_labels(running: Running) -> None:
    async with running("resume") as server:
        page = server.metrics_page().decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    rows = cells(generated.metrics())[1:]
    names = {re.split(r"[{`]", name)[1]: kind for name, kind, _ in rows}
    assert names == kinds
    assert {name for name, *_ in rows} >= {
        "`labserver_closes_total{by, code}`",
        "`labserver_info{replica, stage, version}`",
    }


def test_every_alert_says_what_to_do() -> None:
    text = generated.alerts()
    rules = yaml.safe_load(generated.ALERTS.read_text())["groups"][0]["rules"]
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == [
        rule["alert"] for rule in rules
    ]
    for rule in rules:
        assert rule["annotations"]["description"] in text
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_command_and_option_is_there(command: Command) -> None:
    text = generated.commands()
    names = [each.name or each.callback.__name__ for each in app.registered_commands]  # type: ignore[union-attr]
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == names
    for name in names:
        section = text.split(f"### {name}\n")[1].split("\n### ")[0]
        said = command(name, "--help")[1]
        settings = said.partition("Settings (flag")[0]
        flags = {*re.findall(r"--[a-z-]+", settings)} - {"--help"}
        assert flags <= {*re.findall(r"--[a-z-]+", section)}, name


def test_every_field_of_every_message_is_there() -> None:
    document = asyncapi()
    rows = cells(generated.messages())
    for each in document["components"]["schemas"].values():
        for tag in each["properties"].get("type", {}).get("enum", []):
            for name in each["properties"].keys() - {"type"}:
                assert any(row[:2] == [f"`{tag}`", f"`{name}`"] for row in rows)


def test_sizes_come_from_what_chapter_10_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = generated.measured()
    assert 1e-7 < costs.delivery < 1e-4
    assert costs.heard.at(300) > costs.heard.at(8000)
    rows = cells(generated.sizing())[1:]
    replicas = [int(row[4].replace(",", "")) for row in rows]
    assert min(replicas) >= generated.ZONES and max(replicas) > 10
    (tmp_path / "notebooks").mkdir()
    chapter = json.loads((FOLDER / "10_internet.ipynb").read_text())
    for cell in chapter["cells"]:
        cell.get("outputs", []).clear()
    (tmp_path / "notebooks" / "10_internet.ipynb").write_text(json.dumps(chapter))
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    with pytest.raises(
        ValueError, match="chapter 10 does not say connection, delivery"
    ):
        generated.measured()
