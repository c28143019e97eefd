"""Tables that the code knows better than a page, made when the book is built.

A line ``<!-- from the code: settings -->`` of a page becomes the Markdown of the
function of that name. Each function asks what runs: the settings, a page of metrics,
the command line, the wire contract. A name that is no function fails the build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from itertools import chain
from pathlib import Path
from typing import Any

import nbformat
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from labserver.cli import app
from labserver.contract.schema import asyncapi
from labserver.notebook.sizing.fitting import Costs, Curve, rough
from labserver.notebook.sizing.fleet import Demand, plan
from labserver.server.server import LabServer
from labserver.settings import Settings, flag, kind, variable
from labserver.stages import build

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
MARK = re.compile(r"^<!-- from the code: (\w+) -->$", re.MULTILINE)
ZONES = 3
KINDS = {int: "whole number", float: "number", str: "text", tuple: "list"}


def fill(text: str) -> str:
    """Return the text of a page with its marks replaced.

    Raises:
        KeyError: A mark names nothing of ``TABLES``.

    """
    return MARK.sub(lambda found: TABLES[found[1]](), text)


def settings() -> str:
    """Every setting: flag and variable, meaning, default, values."""
    return table(
        ("setting", "what", "default", "values"),
        (
            (
                " ".join(_names(each)),
                cell(each.metadata["help"]),
                _default(each),
                _values(each),
            )
            for each in fields(Settings)
        ),
    )


def _names(setting: Field[Any]) -> Iterable[str]:
    if setting.name != "secret":  # every user of a machine can read a command line
        yield f"`{flag(setting)}`"
    yield f"`{variable(setting)}`"


def _default(setting: Field[Any]) -> str:
    value = setting.default
    if value in ("", (), None):
        return ""
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{shown} (off)" if value == 0 else shown


def _values(setting: Field[Any]) -> str:
    about = setting.metadata
    if choices := about.get("choices"):
        return ", ".join(f"`{each}`" for each in choices if each)
    words = KINDS[kind(setting)]
    if least := about.get("least"):
        words += f", at least {least:g}"
    if most := about.get("most"):
        words += f", at most {most:g}"
    return words


def metrics() -> str:
    """Every metric of a server's page: name, labels, type, help."""
    chosen = Settings(secret="s" * 32)
    page = LabServer(build("rooms", chosen), chosen, "rooms").metrics_page().decode()
    rows = []
    for family in text_string_to_metric_families(page):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        shown = ", ".join(sorted(labels - {"le"}))
        name += f"{{{shown}}}" if shown else ""
        rows.append((f"`{name}`", family.type, cell(family.documentation)))
    return table(("metric", "type", "what"), sorted(rows))


def alerts() -> str:
    """Every alert: its name and urgency, when it fires, what to do."""
    rows = []
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            about, wait = rule["annotations"], rule.get("for", "at once")
            what = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", about["summary"])
            rows.append(
                f"### {rule['alert']}\n\n{what} "
                f"**{rule['labels']['severity'].capitalize()}**, "
                f"{wait if wait == 'at once' else 'after ' + wait}.\n\n"
                f"```promql\n{rule['expr'].strip()}\n```\n\n{about['description']}\n"
            )
    return "\n".join(rows)


def commands() -> str:
    """Every command: what it does, its arguments and options."""
    group: Any = typer.main.get_command(app)
    return "\n".join(_command(name, each) for name, each in group.commands.items())


def _command(name: str, command: Any) -> str:
    """Return the section of one command; a server's settings have their own page."""
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(["labserver", name, *command.collect_usage_pieces(context)])
    rows = [_option(each) for each in command.params if each.rich_help_panel is None]
    options = table(("option", "default", "what"), rows) if rows else ""
    return f"### {name}\n\n```sh\n{usage}\n```\n\n{command.help}\n\n{options}\n"


def _option(option: Any) -> tuple[str, str, str]:
    value = option.metavar or option.name.upper()
    names = [value]
    if option.param_type_name == "option":
        names = [*option.opts, *option.secondary_opts]
        names[-1] += "" if option.is_flag else f" {value}"
    default = option.default
    shown = "" if default in (None, "", False) else f"{default}"
    return (
        ", ".join(f"`{each.replace('|', chr(92) + '|')}`" for each in names),
        shown,
        cell(option.help or ""),
    )


def messages() -> str:
    """Every field of every message with its JSON type, by direction."""
    document = asyncapi()
    schemas = document["components"]["schemas"]
    parts = []
    for title, operation in (
        ("Client to server", "fromClient"),
        ("Server to client", "toClient"),
    ):
        rows = []
        for each in document["operations"][operation]["messages"]:
            schema = schemas[each["$ref"].rpartition("/")[2]]
            (tag,) = schema["properties"]["type"]["enum"]
            needed = {*schema["required"]}
            for name, about in schema["properties"].items():
                if name != "type":
                    must = "yes" if name in needed else "no"
                    rows.append((f"`{tag}`", f"`{name}`", _json_type(about), must))
        head = ("type", "field", "JSON type", "always there")
        parts.append(f"**{title}**\n\n{table(head, rows)}")
    return "\n".join(parts)


def _json_type(about: dict[str, Any]) -> str:
    """Return a JSON Schema in a few words."""
    if found := about.get("anyOf"):
        names = dict.fromkeys(map(_json_type, found))
        if "number" in names:
            names.pop("integer", None)
        return " or ".join(names)
    if reference := about.get("$ref"):
        schema = asyncapi()["components"]["schemas"][reference.rpartition("/")[2]]
        return f"object of {', '.join(f'`{each}`' for each in schema['properties'])}"
    if "enum" in about:
        return ", ".join(f"`{each}`" for each in about["enum"])
    kinds = about.get("type")
    if kinds == "array":
        return f"array of {_json_type(about.get('items', {}))}"
    kinds = [kinds] if isinstance(kinds, str) else kinds or ["any"]
    return " or ".join(kinds)


def sizing() -> str:
    """How many replicas some loads need, by chapter 10's model and measurements."""
    costs, rows = measured(), []
    for total, room, rate in (
        (10_000, 20, 0.2),
        (10_000, 100, 1.0),
        (100_000, 20, 0.2),
        (100_000, 100, 1.0),
        (100_000, 1000, 0.1),
        (1_000_000, 100, 1.0),
    ):
        demand = Demand(connections=total, room=room, rate=rate)
        fleet = plan(costs, demand, ZONES)
        left = fleet.replicas * (ZONES - 1) // ZONES
        rows.append(
            (
                f"{total:,}",
                f"{room:,}",
                f"{rate:g}",
                f"{demand.deliveries:,.0f}",
                rough(fleet.replicas),
                rough(total / left),
                f"{rough(fleet.memory / 1e6)} MB",
                str(fleet.redis),
            )
        )
    head = (
        *("connections", "members of a room", "messages a second in each"),
        *("deliveries a second", "replicas", "connections of one, a zone lost"),
        *("its memory for them", "Redis nodes"),
    )
    return table(head, rows)


def measured() -> Costs:
    """Return the costs that chapter 10 measured, read from its stored output.

    Raises:
        ValueError: The chapter prints them in another form, or some are missing.

    """
    chapter: Any = nbformat.read(ROOT / "notebooks" / "10_internet.ipynb", 4)
    outputs = chain.from_iterable(each.get("outputs", []) for each in chapter.cells)
    said = "".join(each.get("text", "") for each in outputs)
    found: dict[str, Any] = {}
    for name, words in re.findall(r"^(\w+|a connection) {2,}(\d.*)$", said, re.M):
        points = re.findall(r"([\d.]+) at ([\d,]+)/s", words)
        if name == "a connection":
            found["connection"] = float(words.split()[0]) * 1000
        elif points:
            found[name] = Curve(
                tuple((int(at.replace(",", "")), float(us) / 1e6) for us, at in points)
            )
        elif name in Costs.__annotations__:
            found[name] = float(words) / 1e6
    if missing := Costs.__annotations__.keys() - found.keys() - {"background"}:
        raise ValueError(f"chapter 10 does not say {', '.join(sorted(missing))}")
    return Costs(**found, background=0.01)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """Return plain text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")


TABLES: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (settings, metrics, alerts, commands, messages, sizing)
}


def setup(app: Any) -> dict[str, bool]:
    def read(app: Any, page: str, source: list[str]) -> None:
        source[0] = fill(source[0])

    app.connect("source-read", read)
    return {"parallel_read_safe": True}
