"""The chapters' sources, and the program that builds them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
CHAPTERS = sorted(path.stem for path in (FOLDER / "source").glob("*.py"))


def _load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _load_build()


def chapter(name: str) -> NotebookNode:
    return build.read(FOLDER / "source" / f"{name}.py")


def defined(source: str) -> Any:
    """Return the last function or class that a cell defines."""
    names: dict[str, Any] = {"__name__": "a_cell"}
    exec(source, names)
    return [
        value
        for value in names.values()
        if getattr(value, "__module__", "") == "a_cell"
    ][-1]
