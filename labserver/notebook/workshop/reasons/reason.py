"""An explanation of a wrong part, and how its mistake shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """An explanation, and how its mistake shows.

    Attributes:
        check: Name of the check that sees it; empty if the class raises something.
        seen: Pattern of what is seen, or raised.
        because: What is wrong; a sentence or two.

    """

    check: str
    seen: str
    because: str
