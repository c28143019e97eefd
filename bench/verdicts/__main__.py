"""``python -m bench.verdicts``: judge the rivals, and write a table.

Each rival is judged up to the last stage for which it, or its documentation, has an
answer. What it has none for is "not claimed". Ctrl-C ends all that was started.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from bench.cache import Missing, node_modules
from bench.report import begun, machine
from labserver.cli.judging import MARKS
from labserver.judge import PROMISES, CannotJudge
from labserver.judge.outside import commanded
from labserver.judge.page import page
from labserver.judge.run import Check, Finding, Verdict, checks_up_to, judge
from labserver.redis.embedded import RedisMissing
from labserver.stages import STAGES

HERE = Path(__file__).parent
PATIENCE = 5.0  # seconds
# Checks that compare the numbers of two processes. A rival has none: its adapter counts
# in each process for itself, and is what these checks would judge.
NUMBERED = ("replicas_agree_on_one_order", "killed_replica_costs_the_others_nothing")
UNJUDGED = "compares numbers of two processes, which are the adapter's own"


def node() -> list[str]:
    os.environ["NODE_MODULES"] = str(node_modules())  # the command inherits it
    return ["node", str(HERE / "article.mjs")]


@dataclass(frozen=True)
class Rival:
    """A server to judge.

    Args:
        title: Name in the table.
        stage: Last stage that it claims to have an answer for.
        command: Function that returns the command.
        modules: Python modules that it needs.
        packages: Python packages whose versions stand beside the table.
        numbers: Whether it numbers messages itself.

    """

    title: str
    stage: str
    command: Callable[[], list[str]]
    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    numbers: bool = False

    def missing(self) -> str:
        """Return why it cannot be judged here; empty if it can."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"the module {module} is missing: pip install -e '.[peers]'"
        try:
            self.command()
        except Missing as exc:
            return str(exc)
        return ""


def python(name: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-m", f"bench.verdicts.{name}"]


RIVALS = {
    "lab": Rival(
        "labserver",
        "resume",
        lambda: [sys.executable, "-m", "labserver", "serve", "--port", "{port}"],
        numbers=True,
    ),
    "article": Rival("Node `ws`, after the article", "broker", node),
    "broadcast": Rival("`websockets.broadcast()`", "backpressure", python("broadcast")),
    "fastapi": Rival(
        *("FastAPI on uvicorn", "backpressure", python("fastapi_chat")),
        modules=("fastapi", "uvicorn"),
        packages=("fastapi", "uvicorn"),
    ),
    "socketio": Rival(
        *("`python-socketio`", "broker", python("socketio_chat")),
        modules=("socketio", "aiohttp"),
        packages=("python-socketio", "aiohttp"),
    ),
}


class Refusing(argparse.ArgumentParser):
    """A parser that says in one sentence what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


async def verdict_on(rival: Rival, stage: str, console: Console) -> Verdict:
    """Judge a rival up to a stage, and tell each finding as it comes.

    Raises:
        CannotJudge: It does not start.
        RedisMissing: The stage needs a Redis, and none is found.

    """
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    argv = rival.command()
    judged, left_out = divided(rival, stage)
    with console.status("starting") as status:

        def starts(name: str, check: Check) -> None:
            status.update(f"{name}: {check.__name__.replace('_', ' ')}")

        def told(finding: Finding) -> None:
            line = f"{MARKS[finding.outcome]} [dim]{finding.stage:<12}[/] "
            line += f"{finding.check} [dim]{finding.seconds:.1f} s[/] "
            console.print(line + escape(finding.seen), soft_wrap=True)

        async with commanded(argv, stage, patience=PATIENCE) as world:
            verdict = await judge(world, judged, told, starts)
    return Verdict([*verdict.findings, *left_out])


def divided(rival: Rival, stage: str) -> tuple[list[tuple[str, Check]], list[Finding]]:
    """Return the checks of a rival, and findings for those that would judge another."""
    judged, left_out = list[tuple[str, Check]](), list[Finding]()
    for name, check in checks_up_to(PROMISES, stage):
        if rival.numbers or check.__name__ not in NUMBERED:
            judged.append((name, check))
        else:
            says = (check.__doc__ or "").strip()
            skipped = Finding(name, check.__name__, says, "skipped", UNJUDGED)
            left_out.append(skipped)
    return judged, left_out


def about(names: list[str]) -> str:
    """Return when and where it was measured, and the versions of the rivals."""
    packages = dict.fromkeys(each for name in names for each in RIVALS[name].packages)
    versions = [f"{each} {version(each)}" for each in packages]
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"Measured on {day}: {', '.join([machine(), *versions])}."


def table(verdicts: dict[str, Verdict]) -> str:
    """Return a table in Markdown: promises in rows, rivals in columns, then reasons."""
    names = list(verdicts)
    lines = [
        f"| promise | {' | '.join(RIVALS[name].title for name in names)} |",
        "|---|" + "---|" * len(names),
    ]
    for stage, each in STAGES.items():
        cells = [_cell(verdicts[name], stage) for name in names]
        lines.append(f"| {each.number}. {each.promise} | {' | '.join(cells)} |")
    lines.append("")
    for name, verdict in verdicts.items():
        for finding in verdict.findings:
            if finding.outcome == "broken":
                seen = finding.seen.replace("|", "\\|")
                number = STAGES[finding.stage].number
                lines.append(f"- {RIVALS[name].title}, {number}: {seen}")
    return "\n".join(lines) + "\n"


def _cell(verdict: Verdict, stage: str) -> str:
    if stage not in verdict.stages:
        return "not claimed"
    found = [
        each
        for each in verdict.findings
        if each.stage == stage and each.outcome != "skipped"
    ]
    broken = sum(each.outcome == "broken" for each in found)
    return f"broken ({broken} of {len(found)})" if broken else "kept"


def options(words: list[str]) -> argparse.Namespace:
    """Return what is asked for; with a mistake in it, exit with status 2."""
    parser = Refusing(prog="python -m bench.verdicts", description=__doc__)
    parser.add_argument(
        "--rivals",
        default=",".join(RIVALS),
        metavar="NAME,NAME",
        help=f"of {', '.join(RIVALS)}; default all",
    )
    parser.add_argument(
        "--stage",
        default=list(STAGES)[-1],
        metavar="STAGE",
        help=f"last stage to judge, of {', '.join(STAGES)}; default the last",
    )
    parser.add_argument("--results", default="results", metavar="FOLDER", type=Path)
    chosen = parser.parse_args(words)
    chosen.rivals = [each.strip() for each in chosen.rivals.split(",") if each.strip()]
    for name in chosen.rivals:
        if name not in RIVALS:
            parser.error(f"{name!r} is none of {', '.join(RIVALS)}")
    if not chosen.rivals:
        parser.error(f"--rivals names none of {', '.join(RIVALS)}")
    if chosen.stage not in STAGES:
        parser.error(f"{chosen.stage!r} is none of {', '.join(STAGES)}")
    try:
        chosen.results.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        parser.error(f"{chosen.results} cannot be written: {exc.strerror}")
    return chosen


def main(words: list[str]) -> int:
    """Return 0; 2 if no rival can be judged here."""
    chosen, verdicts = options(words), dict[str, Verdict]()
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 120, highlight=False)
    for turn, name in enumerate(dict.fromkeys(chosen.rivals), start=1):
        rival = RIVALS[name]
        stage = min(chosen.stage, rival.stage, key=list(STAGES).index)
        where = f"{turn}/{len(chosen.rivals)}"
        console.print(f"{where} {rival.title}, up to {stage}", markup=False)
        try:
            if why := rival.missing():
                raise Missing(why)
            verdicts[name] = asyncio.run(verdict_on(rival, stage, console))
        except (Missing, CannotJudge, RedisMissing) as exc:
            print(f"{name}: left out, {exc}", file=sys.stderr)
    if not verdicts:
        return 2
    folder = begun("verdicts", chosen.results)
    text = f"{about(list(verdicts))}\n\n{table(verdicts)}"
    (folder / "table.md").write_text(text)
    rows = {name: [_row(each) for each in v.findings] for name, v in verdicts.items()}
    (folder / "verdicts.json").write_text(json.dumps(rows, indent=2))
    for name, verdict in verdicts.items():
        (folder / f"{name}.html").write_text(page(verdict))
    print(f"\n{text}\nresults {folder}")
    return 0


def _row(finding: Finding) -> dict[str, object]:
    names = ("stage", "check", "outcome", "seen", "seconds")
    return {name: getattr(finding, name) for name in names}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped: all that was started has ended", file=sys.stderr)
        sys.exit(130)
