"""The seven stages, in order, and a server's parts built from them.

A stage's name and promise are read from its module, so they are stated only once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from labserver.errors import SettingsError
from labserver.server.parts import Parts
from labserver.settings import Settings
from labserver.stages import auth, backpressure, broker, echo, heartbeat, resume, rooms
from labserver.stages.local_broker import LocalBroker
from labserver.stages.naive import (
    AdmitAnyone,
    DirectOutbox,
    NoHeartbeat,
    NoHistory,
)

MODULES = (echo, auth, rooms, heartbeat, backpressure, broker, resume)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its place in the order, and its module."""

    number: int
    module: ModuleType

    @property
    def name(self) -> str:
        return self.module.__name__.rpartition(".")[2]

    @property
    def promise(self) -> str:
        return (self.module.__doc__ or "").partition("\n")[0]

    @property
    def file(self) -> Path:
        return Path(str(self.module.__file__))

    @property
    def lines(self) -> int:
        return len(self.file.read_text(encoding="utf-8").splitlines())

    @property
    def extend(self) -> Callable[[Parts, Settings], Parts]:
        extend: Callable[[Parts, Settings], Parts] = self.module.extend
        return extend


STAGES = {
    stage.name: stage
    for stage in (Stage(number, each) for number, each in enumerate(MODULES, start=1))
}
LAST = MODULES[-1].__name__.rpartition(".")[2]


def naive() -> Parts:
    """Return parts that promise nothing; the application is the first stage's."""
    return Parts(
        application=echo.EchoApplication,
        admission=AdmitAnyone(),
        heartbeat=NoHeartbeat(),
        outbox=DirectOutbox,
        broker=LocalBroker(),
        history=NoHistory(),
    )


def included(last: str, without: Collection[str] = ()) -> list[Stage]:
    """Return the stages up to ``last``, except those named in ``without``.

    Raises:
        SettingsError: There is no stage of that name.

    """
    for name in (last, *without):
        if name not in STAGES:
            known = ", ".join(STAGES)
            raise SettingsError(f"there is no stage {name!r}; the stages are {known}")
    end = STAGES[last].number
    return [
        stage
        for stage in STAGES.values()
        if stage.number <= end and stage.name not in without
    ]


def build(
    last: str,
    settings: Settings,
    without: Collection[str] = (),
) -> Parts:
    """Return the parts of a server with every stage up to ``last``.

    Args:
        last: Name of the last stage.
        settings: The server's settings, of which each stage reads its own.
        without: Names of stages to leave out; the naive answer takes their place.

    Raises:
        SettingsError: There is no stage of that name.

    """
    parts = naive()
    for stage in included(last, without):
        parts = stage.extend(parts, settings)
    return parts
