"""One picture for each scenario."""

from __future__ import annotations
from pathlib import Path


def draw(record, folder: Path, caption: str):
    return []
