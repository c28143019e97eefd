"""Source code in a cell, read from the installed files: the code that really runs."""

from __future__ import annotations

import ast
import html
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pygments.lexers.python import PythonLexer  # type: ignore[import-untyped]
from pygments.token import Token  # type: ignore[import-untyped]

import labserver

Shown = ModuleType | type[Any] | Callable[..., Any]


# Colours of tokens, readable on light and on dark ground. Plain values, no CSS
# variables: JupyterLab removes those from the outputs of a notebook that is not
# trusted.
COLOURS = {
    Token.Keyword: "#1f8f4e; font-weight: bold",
    Token.Operator.Word: "#1f8f4e; font-weight: bold",
    Token.Comment: "#6b7f80; font-style: italic",
    Token.Literal.String: "#c0504d",
    Token.Literal.Number: "#b07020",
    Token.Name.Function: "#3b7dd8",
    Token.Name.Class: "#3b7dd8",
    Token.Name.Decorator: "#a05cd5",
}
# Lines do not wrap: 88 columns fit a cell of usual width, and a narrower one scrolls.
STYLE = (
    "font-family: monospace; font-size: 12.5px; line-height: 1.35; "
    "white-space: pre; overflow-x: auto"
)


class Source:
    """Source code that a cell shows highlighted, and plain where styles are ignored."""

    def __init__(self, shown: Sequence[Shown]) -> None:
        self.parts = [_read(each) for each in shown]

    def _repr_html_(self) -> str:
        return "\n".join(
            f'<div><code>{html.escape(where)}</code></div><pre style="{STYLE}">'
            f"{_highlighted(text)}</pre>"
            for where, text in self.parts
        )

    def __repr__(self) -> str:
        # The HTML has the whole text already, and a stored chapter should be small.
        return ", ".join(where for where, _ in self.parts)


def show(*shown: Shown) -> Source:
    """Return the source of modules, classes or functions, for a cell to show.

    A module is shown without its imports.
    """
    return Source(shown)


def excerpt(path: str, *names: str) -> Source:
    """Return functions or classes of a file of this repository, for a cell to show.

    The file is not imported: modules with Locust would replace the kernel's event loop.

    Args:
        path: The file, from the root of the repository.
        names: Names of functions or classes at its top level; without names, the whole
            file is shown.

    """
    text = (Path(labserver.__file__).parent.parent / path).read_text()
    source = Source([])
    for node in ast.parse(text).body if names else ():
        if getattr(node, "name", "") in names:
            part = ast.get_source_segment(text, node) or ""
            source.parts.append((f"{path}, line {node.lineno}", part))
    if not names:
        source.parts.append((path, _without_imports(text).strip("\n")))
    return source


def _read(shown: Shown) -> tuple[str, str]:
    """Return where something is defined, and its source."""
    lines, start = inspect.getsourcelines(shown)
    text = "".join(lines)
    where = _where(Path(inspect.getsourcefile(shown) or ""))
    if isinstance(shown, ModuleType):
        text = _without_imports(text)
    else:
        where += f", line {start}"
    return where, textwrap.dedent(text).strip("\n")


def _highlighted(text: str) -> str:
    parts = []
    for kind, value in PythonLexer(stripnl=False).get_tokens(text):
        while kind not in COLOURS and kind.parent is not None:
            kind = kind.parent
        style = COLOURS.get(kind)
        value = html.escape(value, quote=False)
        parts.append(f'<span style="color: {style}">{value}</span>' if style else value)
    return "".join(parts).rstrip("\n")


def _where(path: Path) -> str:
    root = Path(labserver.__file__).parent.parent
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _without_imports(text: str) -> str:
    imports = set[int]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), start=1)
    rest = "\n".join(line for number, line in lines if number not in imports)
    return re.sub(r"\n{4,}", "\n\n\n", rest)
