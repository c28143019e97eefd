"""The learner's folder: copies of the chapters, apart from what git tracks.

A chapter is copied without its outputs, which would give the predictions away. A copy
that the learner has changed, or run, is never written again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from labserver.errors import SettingsError

WRITTEN = ".written.json"  # by chapter, the digest of the copy that was written


def prepare(chapters: Path, folder: Path) -> list[str]:
    """Copy to a folder what it lacks; return what to say of it, as sentences.

    Args:
        chapters: Folder of the chapters as the project has them.
        folder: The learner's; it is made if it is not there.

    Raises:
        SettingsError: The folder cannot be written, or is the project's own.

    """
    if folder.resolve() == chapters.resolve():
        raise SettingsError(f"{folder} has the chapters that git tracks: name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(
            chapters / "reference", folder / "reference", dirs_exist_ok=True
        )
        written = _written(folder)
        new, stay = [], []
        for source in sorted(chapters.glob("[0-9][0-9]_*.ipynb")):
            text, copy = without_outputs(source), folder / source.name
            before = written.get(source.name)
            if copy.exists() and before == _digest(text):
                continue  # it is of this version, whatever the learner did since
            if copy.exists() and before != _digest(copy.read_text("utf-8")):
                stay.append(source.name)
                continue
            copy.write_text(text, encoding="utf-8")
            written[source.name] = _digest(text)
            new.append(source.name)
        (folder / WRITTEN).write_text(json.dumps(written, indent=1), encoding="utf-8")
    except OSError as exc:
        raise SettingsError(f"{folder} cannot be written: {exc.strerror}") from None
    said = [f"your chapters are in {folder}"]
    if new:
        said.append(f"{len(new)} were written: {new[0]} to {new[-1]}")
    if stay:
        names = ", ".join(stay)
        said.append(f"yours stay, though there are newer ones (rename to get): {names}")
    return said


def without_outputs(chapter: Path) -> str:
    """Return a notebook's text as if it had never been run."""
    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _written(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / WRITTEN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
