"""A solution with a mistake, and how its explanation begins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wrong:
    """A solution with a mistake, and how its explanation begins.

    Attributes:
        name: What is wrong.
        because: The beginning of the explanation.
        edits: Texts of the solution, and what stands there instead.
        more: What follows the solution, such as a class that is made of it.
        before: Whether a check of a stage before is what sees it.
        number: Which solution of the chapter it is; 1 is the first part that is built.

    """

    name: str
    because: str
    edits: tuple[tuple[str, str], ...] = ()
    more: str = ""
    before: bool = False
    number: int = 1
