"""A stage and its mistaken twin, watched by the same probe."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from labserver.embedded import running_redis
from labserver.errors import SettingsError
from labserver.mistakes import MISTAKES, Mistake
from labserver.probes import PROBES, Broken, Probe, World
from labserver.stages import included, mistaken

PATIENCE = 2.0  # seconds until what does not come counts as missing


@dataclass(frozen=True)
class Twins:
    """What one probe saw on both. It shows itself at the end of a cell.

    Attributes:
        right: What was seen of the right version; empty when it kept its promise.
        wrong: What was seen of the mistake.

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
        patience: Seconds until what does not come counts as missing.

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
    seen = []
    for name in (None, mistake):
        async with AsyncExitStack() as stack:
            redis = ""
            if "broker" in names:
                redis = await stack.enter_async_context(running_redis())
            try:
                await probe(World(stage, redis, mistake=name, patience=patience))
            except Broken as broken:
                seen.append(str(broken))
            else:
                seen.append("")
    return Twins(stage, chosen, probe, *seen)
