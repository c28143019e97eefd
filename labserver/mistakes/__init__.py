"""The well-known wrong versions of every stage, as named twins that run.

Each replaces exactly one part, and is as short and as plausible as what teaches it. A
promise that none of them can break would not be tested: each names the probe that goes
red on it (``labserver.judge``).
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
    """Return the mistake of a name that a server of these stages can make.

    Raises:
        SettingsError: There is no such mistake, or its stage is not included.

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
    """Return what :func:`labserver.stages.build` does, perhaps with a mistake.

    Args:
        last: Name of the last stage.
        settings: What the stages choose from.
        without: Names of stages to leave out.
        mistake: Name of a mistake that takes the place of one part.

    Raises:
        SettingsError: There is no such stage, or a server of it cannot make it.

    """
    parts = stages.build(last, settings, without)
    if mistake is None:
        return parts
    # Last, because the application of one stage is replaced by another's.
    extend = mistaken(mistake, last, without).extend
    assert extend is not None
    return extend(parts, settings)
