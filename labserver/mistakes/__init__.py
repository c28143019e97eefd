"""Well-known wrong versions of every stage, each with a name, that really run.

Each replaces exactly one part, and is as short and plausible as the code that it is
known from. Each names the probe that fails on it (``labserver.judge``): a probe that no
mistake fails would test nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from labserver import stages
from labserver.errors import SettingsError
from labserver.mistakes import (
    auth,
    backpressure,
    broker,
    client,
    echo,
    heartbeat,
    resume,
    rooms,
)
from labserver.mistakes.mistake import Mistake
from labserver.server.parts import Parts
from labserver.settings import Settings

__all__ = ["MISTAKES", "Mistake", "build", "mistaken"]

MODULES = (echo, auth, rooms, heartbeat, backpressure, broker, resume, client)
MISTAKES: dict[str, Mistake] = {
    each.name: each for module in MODULES for each in module.MISTAKES
}


def mistaken(name: str, last: str, without: Collection[str] = ()) -> Mistake:
    """Return the mistake with a name, if a server of these stages can make it.

    Raises:
        SettingsError: There is no such mistake, it is one of the client, or its stage
            is not included.

    """
    if name not in MISTAKES:
        raise SettingsError(
            f"there is no mistake {name!r}: labserver mistakes lists them"
        )
    mistake = MISTAKES[name]
    if mistake.extend is None:
        raise SettingsError(f"{name} is a mistake of the client: no server can make it")
    if mistake.stage not in [stage.name for stage in stages.included(last, without)]:
        how = "is left out" if mistake.stage in without else f"comes after {last}"
        raise SettingsError(
            f"{name} is a mistake of stage {mistake.stage}, which {how}"
        )
    return mistake


def build(
    last: str,
    settings: Settings,
    without: Collection[str] = (),
    mistake: str | None = None,
) -> Parts:
    """Return parts like :func:`labserver.stages.build`, optionally with a mistake.

    Args:
        last: Name of the last stage.
        settings: Settings of the stages.
        without: Names of stages to leave out.
        mistake: Name of a mistake that takes the place of one part.

    Raises:
        SettingsError: There is no such stage, or its server cannot make the mistake.

    """
    parts = stages.build(last, settings, without)
    if mistake is None:
        return parts
    # After all stages, because a later stage may replace the same part.
    extend = mistaken(mistake, last, without).extend
    assert extend is not None
    return extend(parts, settings)
