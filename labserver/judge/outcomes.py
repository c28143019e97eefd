"""How a check can end, beside well: broken, skipped, or no judgement at all."""

from __future__ import annotations

from labserver.errors import LabError


class Broken(LabError):
    """A promise was not kept; the message says what was seen."""


class Skipped(LabError):
    """This world cannot show what a check looks at; the message says why."""


class CannotJudge(LabError):
    """There is nothing to judge; the message says why, in a sentence."""


def must(kept: bool, otherwise: str) -> None:
    """Raise Broken with the message ``otherwise`` unless ``kept``."""
    if not kept:
        raise Broken(otherwise)
