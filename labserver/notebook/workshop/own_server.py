"""A learner's own server: a file to begin with, and the promises that it keeps."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labserver.errors import LabError, SettingsError
from labserver.judge import PROMISES, CannotJudge
from labserver.judge.outside import INSIDE, commanded
from labserver.judge.run import Finding, checks_up_to
from labserver.judge.run import judge as judge_checks
from labserver.judge.starter import STARTERS
from labserver.judge.starter import starter as starter_text
from labserver.notebook.workshop.probed import SHOWN_LIMIT, row
from labserver.notebook.progress import Line
from labserver.stages import STAGES, included

PATIENCE = 2.0  # seconds until what does not come counts as missing


@dataclass(frozen=True)
class Judged:
    """Which promises a server keeps. It shows itself at the end of a cell.

    Attributes:
        name: What was judged, as the learner wrote it.
        stage: Last stage that was asked for.
        findings: What each check found, up to the first promise that is broken.
        trouble: Why it could not be judged; empty if it could.

    """

    name: str
    stage: str
    findings: Sequence[Finding] = ()
    trouble: str = ""

    @property
    def kept(self) -> list[str]:
        """The stages whose promises hold."""
        broken = {each.stage for each in self._broken()}
        judged = dict.fromkeys(each.stage for each in self.findings)
        return [name for name in judged if name not in broken]

    def _broken(self) -> list[Finding]:
        return [each for each in self.findings if each.outcome == "broken"]

    def _lines(self) -> list[str]:
        if self.trouble:
            return [f"○ **`{self.name}` cannot be judged yet:** {self.trouble}."]
        lines, wrong = list[str](), self._broken()
        for name in self.kept:
            mine = [each for each in self.findings if each.stage == name]
            asked = sum(each.outcome == "kept" for each in mine)
            stage = STAGES[name]
            lines.append(f"✓ **{stage.number}. {stage.promise}** {asked} checks")
        if not wrong:
            return lines
        stage = STAGES[wrong[0].stage]
        asked = sum(
            each.stage == stage.name and each.outcome != "skipped"
            for each in self.findings
        )
        lines.append(
            f"✗ **{stage.number}. {stage.promise}** "
            f"{len(wrong)} of {asked} checks are broken."
        )
        return lines

    def __repr__(self) -> str:
        lines = [each.replace("**", "") for each in self._lines()]
        lines += [f"{each.check}: {each.seen}" for each in self._broken()]
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        parts, wrong = self._lines(), self._broken()
        if wrong:
            rows = [row(each.says, each.seen) for each in wrong[:SHOWN_LIMIT]]
            words = shlex.join(command(self.name, python="python"))
            more = len(wrong) - SHOWN_LIMIT
            parts += [
                "\n".join(["| what should hold | seen |", "|---|---|", *rows]),
                *([f"{more} more broken checks are not shown."] if more > 0 else []),
                "Later promises wait for this one. In a terminal, with every message "
                "and a page of pictures: `labserver judge --html verdict.html "
                f"--stage {self.stage} -- {words}`",
            ]
        return "\n\n".join(parts)


def command(target: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs a file, or a command line as its words.

    Args:
        target: Path of a ``.py``, ``.mjs`` or ``.js`` file or of a program, or a
            command line.
        python: What runs a ``.py`` file.

    Raises:
        SettingsError: There is no such file.

    """
    words = shlex.split(target)
    if not words:
        raise SettingsError("judge wants a file, or the command that starts a server")
    if len(words) > 1:
        return words
    file = Path(target)
    if not file.is_file():
        raise SettingsError(
            f"there is no file {target!r} here: starter({target!r}) writes one"
        )
    runs = {".py": python, ".mjs": "node", ".js": "node"}
    if file.suffix in runs:
        return [runs[file.suffix], target]
    return [str(file.absolute())]


async def judge(target: str, stage: str = "echo", patience: float = PATIENCE) -> Judged:
    """Say which promises of a server hold, up to a stage or to the first that does not.

    Args:
        target: A file, such as ``"my_server.py"``, or the command that starts a server.
        stage: Last stage.
        patience: Seconds to wait for what must come.

    Raises:
        SettingsError: There is no such file, or no such stage.

    """
    stages = [each.name for each in included(stage)]
    argv, line, findings = command(target), Line(), list[Finding]()

    def told(finding: Finding) -> None:
        if finding.seen != INSIDE:
            findings.append(finding)

    def begun(name: str, check: object) -> None:
        line.say(f"{name}: {len(findings)} checks")

    checks = checks_up_to(PROMISES, stage)
    try:
        async with commanded(argv, stage, patience=patience) as world:
            for name in stages:
                mine = [pair for pair in checks if pair[0] == name]
                if (await judge_checks(world, mine, told, begun)).of(name) == "broken":
                    break
    except (CannotJudge, LabError) as exc:
        said = str(exc).replace(f"{sys.executable} ", "python ")
        return Judged(target, stage, trouble=said)
    return Judged(target, stage, tuple(findings))


def starter(to: str = "my_server.py") -> str:
    """Write a server to begin with, unless the file is there; return what happened.

    Args:
        to: Name of the file. It ends in ``.py`` for Python, in ``.mjs`` for Node.

    Raises:
        SettingsError: There is no starter for such a file.

    """
    languages = {Path(file).suffix: name for name, file in reversed(STARTERS.items())}
    if Path(to).suffix not in languages:
        raise SettingsError(
            f"there is no starter for {to!r}: its name ends in {' or '.join(languages)}"
        )
    if Path(to).exists():
        return f"{to} is there already, and stays as it is"
    text = starter_text(languages[Path(to).suffix])
    Path(to).write_text(text, encoding="utf-8")
    return f"{to}: {len(text.splitlines())} lines, which keep the promise of stage echo"
