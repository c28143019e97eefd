"""Whether a process still runs, by its number."""

from __future__ import annotations

import contextlib
from pathlib import Path


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie has ended."""
    # It may end between the opening of the file (FileNotFoundError) and the reading
    # of it (ProcessLookupError).
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False
