"""The first cells of a learner: a check of this machine, and a map of the stages."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
from dataclasses import fields

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from labserver.load.pictures.style import COLOURS, GRID, INK
from labserver.notebook.charts import WIDTH, Picture
from labserver.server.parts import Parts
from labserver.settings import Settings
from labserver.stages import STAGES, naive

DOCTOR_TIMEOUT = 20.0  # seconds


async def doctor() -> None:
    """Print the output of ``labserver doctor``, without paths of this machine."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver", "doctor"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TERM": "dumb"},
    )
    try:
        async with asyncio.timeout(DOCTOR_TIMEOUT):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.decode())
    print(re.sub(r"\s*\(/[^)\n]*\)?", "", text).rstrip())


def replaced(stage: str) -> str:
    """Return the name of the part that a stage replaces."""
    before = naive()
    after = STAGES[stage].extend(before, Settings(redis="unix:///nowhere"))
    changed = [
        field.name
        for field in fields(Parts)
        if getattr(after, field.name) is not getattr(before, field.name)
    ]
    return changed[0] if changed else "application"


def stage_map() -> Picture:
    """Draw a map of the stages: the part that each replaces, and its promise."""
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.add_subplot()
    title = (
        "Each stage replaces one part and adds one promise; all later stages keep it"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    count = len(STAGES)
    for row, stage in enumerate(STAGES.values()):
        axes.text(
            -0.15,
            row,
            textwrap.fill(stage.promise.rstrip("."), 40),
            ha="right",
            va="center",
            fontsize=8.5,
            color=INK,
        )
        for column in range(count):
            kept = column >= row
            axes.add_patch(
                Rectangle(
                    (column + 0.04, row - 0.42),
                    0.92,
                    0.84,
                    facecolor=COLOURS[0] if kept else "white",
                    alpha=1 if column == row else 0.22 if kept else 1,
                    edgecolor="none" if kept else GRID,
                )
            )
        axes.text(
            row + 0.5,
            row,
            replaced(stage.name),
            ha="center",
            va="center",
            fontsize=7,
            color="white",
        )
    for column, stage in enumerate(STAGES.values()):
        axes.text(
            column + 0.5,
            count - 0.35,
            f"{stage.number}\n{stage.name}",
            ha="center",
            va="top",
            fontsize=7.5,
            color=INK,
        )
    axes.set_xlim(-3.6, count)
    axes.set_ylim(count + 0.3, -0.6)
    axes.set_axis_off()
    words = "; ".join(
        f"{each.number} {each.name} replaces {replaced(each.name)}: {each.promise}"
        for each in STAGES.values()
    )
    return Picture(figure, f"The stages and what they promise. {words}")
