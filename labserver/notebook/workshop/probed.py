"""What was found about a learner's part, as a cell shows it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from labserver.judge.run import Finding
from labserver.notebook.workshop.reasons import telling
from labserver.stages import STAGES

SHOWN_LIMIT = 6  # broken checks that are shown


@dataclass(frozen=True)
class Probed:
    """What a server with a learner's part keeps. It shows itself at the end of a cell.

    Attributes:
        part: Name of the class, or function.
        place: Which part of a server it took, or ``server``.
        stage: The stage that brings this part.
        findings: What each check found; empty if the class is not written yet.
        hung: What stopped it before its end; empty if nothing.
        raised: What the class raised, and where.
        doubted: Checks that may be broken because this machine was busy.

    """

    part: str
    place: str
    stage: str
    findings: Sequence[Finding] = ()
    hung: str = ""
    raised: Sequence[str] = ()
    doubted: Collection[str] = ()

    @property
    def written(self) -> bool:
        """Whether there was anything to check."""
        return bool(self.findings or self.hung)

    @property
    def kept(self) -> bool:
        """Whether no promise was broken, and every check came to its end."""
        return self.written and not self.hung and not self._broken()

    @property
    def why(self) -> str:
        """Why a well-known wrong version is wrong; empty for others.

        Also empty where that rests on a check that is doubted: none is better than a
        wrong one.
        """
        check, because = telling(self.place, self.findings, self.raised)
        return "" if check in self.doubted else because

    def _where(self) -> str:
        if self.place == "server":
            return "such a server in `labserver/judge/starters/stdlib.py`"
        if self.place == "backoff":
            return "`Backoff` and what calls it in `labserver/client.py`"
        return f"the same part in `labserver/stages/{STAGES[self.stage].file.name}`"

    def _broken(self) -> list[Finding]:
        return [each for each in self.findings if each.outcome == "broken"]

    def _judged(self) -> int:
        return sum(each.outcome != "skipped" for each in self.findings)

    def __repr__(self) -> str:
        if not self.written:
            return f"{self.part}: not written yet"
        wrong = self._broken()
        if self.kept:
            return f"{self.part} as {self.place}: kept, {self._judged()} checks"
        lines = [
            f"{self.part} as {self.place}: not kept yet, "
            f"{len(wrong)} of {self._judged()} checks are broken"
        ]
        lines += [f"{each.stage}: {each.says} broken: {each.seen}" for each in wrong]
        lines += [*self.raised, *([self.hung] if self.hung else [])]
        return "\n".join([*lines, *([self.why] if self.why else [])])

    def _repr_markdown_(self) -> str:
        if not self.written:
            return (
                f"○ **`{self.part}` is not written yet.** Nothing below depends on it; "
                "the hint is above, with the solution below it."
            )
        wrong, judged = self._broken(), self._judged()
        if self.kept:
            own = [each for each in self.findings if each.stage == self.stage]
            serves = "waits well" if self.place == "backoff" else "serves"
            before = dict.fromkeys(each.stage for each in self.findings)
            before.pop(self.stage, None)
            others = f", and breaks none of {', '.join(before)}" if before else ""
            lines = [
                f"✓ **`{self.part}` {serves} and keeps its promise**{others}: "
                f"{judged} checks. Those of stage {self.stage}:",
                "",
                *(f"- {each.says}" for each in own if each.outcome == "kept"),
                *(
                    f"- Not asked: {each.says} ({each.seen})"
                    for each in own
                    if each.outcome == "skipped"
                ),
            ]
            return "\n".join(lines)
        lines = [f"✗ **Not yet**: {len(wrong)} of {judged} checks are broken."]
        if wrong:
            lines += ["", "| stage | what should hold | seen |", "|---|---|---|"]
        lines += [row(e.stage, e.says, e.seen) for e in wrong[:SHOWN_LIMIT]]
        if (more := len(wrong) - SHOWN_LIMIT) > 0:
            lines += ["", f"{more} more broken checks are not shown."]
        if wrong and all("in vain" in each.seen for each in wrong):
            lines += [
                "",
                "All of them waited in vain. If other programs have this machine's "
                "cores, end them, and run the cell again.",
            ]
        if telling(self.place, wrong, self.raised)[0] in self.doubted:
            lines += [
                "",
                "Why is not said: this machine was busy meanwhile, which may be all "
                "that was seen. Run the cell again.",
            ]
        if self.hung:
            lines += ["", f"**{self.hung}**"]
        for text in self.raised:
            lines += ["", f"**It raised** {_cell(text)}"]
        if self.why:
            lines += ["", f"**Why:** {self.why}"]
        lines += ["", f"**Look at:** {self._where()}."]
        return "\n".join(lines)


def row(*cells: str) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")
