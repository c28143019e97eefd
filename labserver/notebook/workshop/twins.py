"""A stage and a mistaken version of it, tested by the same probe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

from labserver.errors import SettingsError
from labserver.judge import PROBES, Broken, Probe, World
from labserver.mistakes import MISTAKES, Mistake, mistaken
from labserver.notebook.progress import Line
from labserver.redis.embedded import running_redis
from labserver.stages import included

PATIENCE = 2.0  # seconds until an expected event counts as missing
SHORT = 1.5  # the same for a mistake, where the event often never comes
AT_ONCE = 4  # probes that run at a time; they mostly wait
NOISY = ("labserver", "websockets.server", "asyncio")


@dataclass(frozen=True)
class Twins:
    """Results of one probe on a stage and on a mistake. A cell shows it as a table.

    Attributes:
        right: How the stage broke its promise; empty if it kept it.
        wrong: How the mistake broke the promise; empty if it kept it.

    """

    stage: str
    mistake: Mistake
    probe: Probe
    right: str
    wrong: str

    def _rows(self) -> list[tuple[str, str]]:
        kept = (self.probe.__doc__ or "").strip()
        return [
            (name, f"broken: {seen}" if seen else f"kept: {kept}")
            for name, seen in (
                (self.stage, self.right),
                (self.mistake.name, self.wrong),
            )
        ]

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {said}" for name, said in self._rows())

    def _repr_markdown_(self) -> str:
        (right, said), (wrong, instead) = self._rows()
        cells = [each.replace("|", "\\|") for each in (said, instead)]
        lines = [
            f"| `{right}` | `{wrong}` |",
            "|---|---|",
            f"| {cells[0]} | {cells[1]} |",
            "",
            f"**What goes wrong:** {self.mistake.wrong} (Seen: {self.mistake.seen}.)",
        ]
        return "\n".join(lines)


async def compare_mistake(
    stage: str, mistake: str, patience: float = PATIENCE
) -> Twins:
    """Run the probe that a mistake breaks on both versions of a stage.

    Args:
        stage: Last stage of both servers, the mistake's own or a later one.
        mistake: Name of the mistake.
        patience: Seconds until an expected event counts as missing.

    Raises:
        SettingsError: There is no such stage or mistake, or the stage comes before
            the mistake's.

    """
    chosen = MISTAKES.get(mistake)
    names = [each.name for each in included(stage)]
    if chosen is None or chosen.extend is not None:
        chosen = mistaken(mistake, stage)
    elif chosen.stage not in names:
        raise SettingsError(f"{mistake} is a mistake of stage {chosen.stage}")
    probe = PROBES[chosen.breaks]
    right = await _seen(probe, stage, None, patience)
    wrong = await _seen(probe, stage, mistake, patience)
    return Twins(stage, chosen, probe, right, wrong)


async def _seen(probe: Probe, stage: str, mistake: str | None, patience: float) -> str:
    """Return how a probe saw the promise broken; empty if it was kept."""
    async with AsyncExitStack() as stack:
        stack.enter_context(quiet())
        redis = ""
        if any(each.name == "broker" for each in included(stage)):
            redis = await stack.enter_async_context(running_redis())
        try:
            await probe(World(stage, redis, mistake=mistake, patience=patience))
        except Broken as broken:
            return str(broken)
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log in a block: the probe reports what a mistake does wrong."""
    levels = {name: logging.getLogger(name).level for name in NOISY}
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@dataclass(frozen=True)
class Mistakes:
    """Results of the probes on a stage, and on each of its mistakes."""

    stage: str
    twins: Sequence[Twins]

    def __repr__(self) -> str:
        lines = [f"{each.mistake.name}: {each.wrong}" for each in self.twins]
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        lines = ["| mistake | what goes wrong | what the probe saw |", "|---|---|---|"]
        for each in self.twins:
            seen = (each.wrong or "nothing").replace("|", "\\|")
            lines.append(f"| `{each.mistake.name}` | {each.mistake.wrong} | {seen} |")
        held = sum(not each.right for each in self.twins)
        total = len(self.twins)
        lines += ["", f"The stage itself kept its promise in {held} of {total} probes."]
        return "\n".join(lines)


async def mistakes(stage: str) -> Mistakes:
    """Run the probes for a stage's mistakes on the stage, and on each mistake.

    Raises:
        SettingsError: There is no such stage.

    """
    included(stage)
    chosen = [each for each in MISTAKES.values() if each.stage == stage]
    names = list(dict.fromkeys(each.breaks for each in chosen))
    runs: list[tuple[str, str | None]] = [(name, None) for name in names]
    runs += [(each.breaks, each.name) for each in chosen]
    turn, seen, line = (
        asyncio.Semaphore(AT_ONCE),
        dict[tuple[str, str | None], str](),
        Line(),
    )

    async def run(probe: str, mistake: str | None) -> None:
        patience = PATIENCE if mistake is None else SHORT
        async with turn:
            seen[probe, mistake] = await _seen(PROBES[probe], stage, mistake, patience)
        line.say(f"probes: {len(seen)} of {len(runs)}")

    with quiet():
        async with asyncio.TaskGroup() as group:
            for each in runs:
                group.create_task(run(*each))
    return Mistakes(
        stage,
        [
            Twins(
                stage,
                each,
                PROBES[each.breaks],
                seen[each.breaks, None],
                seen[each.breaks, each.name],
            )
            for each in chosen
        ],
    )
