"""Servers to begin with, one for each language."""

from __future__ import annotations

from pathlib import Path

from labserver.errors import SettingsError

FOLDER = Path(__file__).parent / "starters"
STARTERS = {"python": "python.py", "node": "node.mjs", "stdlib": "stdlib.py"}


def starter(language: str) -> str:
    """Return the program of a server to begin with.

    Raises:
        SettingsError: There is none in this language.

    """
    if language not in STARTERS:
        known = ", ".join(STARTERS)
        raise SettingsError(f"there is no starter {language[:40]!r}: {known}")
    return (FOLDER / STARTERS[language]).read_text(encoding="utf-8")
