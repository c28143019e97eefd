"""``python -m bench.verdicts``: judge the rivals, and write a table.

Each rival is judged up to the last stage for which it, or its documentation, has an
answer. What it has none for is "not claimed".
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.cache import Missing, node_modules
from labserver.judge import PROMISES
from labserver.judge.outside import commanded
from labserver.judge.page import page
from labserver.judge.run import Finding, Verdict, checks_up_to, judge
from labserver.stages import STAGES

HERE = Path(__file__).parent
PATIENCE = 5.0  # seconds


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

    """

    title: str
    stage: str
    command: Callable[[], list[str]]
    modules: tuple[str, ...] = ()

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
    ),
    "article": Rival("Node `ws`, after the article", "broker", node),
    "broadcast": Rival("`websockets.broadcast()`", "backpressure", python("broadcast")),
    "fastapi": Rival(
        *("FastAPI on uvicorn", "backpressure", python("fastapi_chat"), ("fastapi",)),
    ),
}


async def verdict_on(rival: Rival) -> Verdict:
    def told(finding: Finding) -> None:
        print(f"  {finding.outcome:8} {finding.check}  {finding.seen}", flush=True)

    argv = rival.command()
    async with commanded(argv, rival.stage, patience=PATIENCE) as world:
        return await judge(world, checks_up_to(PROMISES, rival.stage), told)


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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.verdicts", description=__doc__
    )
    parser.add_argument(
        "--rivals",
        default=",".join(RIVALS),
        metavar="NAME,NAME",
        help=f"of {', '.join(RIVALS)}; default all",
    )
    parser.add_argument("--results", default="results", metavar="FOLDER")
    options = parser.parse_args()
    names = [each.strip() for each in options.rivals.split(",") if each.strip()]
    for name in names:
        if name not in RIVALS:
            parser.error(f"{name!r} is none of {', '.join(RIVALS)}")
    verdicts: dict[str, Verdict] = {}
    for number, name in enumerate(names, start=1):
        rival = RIVALS[name]
        if why := rival.missing():
            print(f"{name}: left out, {why}", file=sys.stderr)
            continue
        print(f"{number}/{len(names)} {rival.title}, up to {rival.stage}", flush=True)
        verdicts[name] = asyncio.run(verdict_on(rival))
    began = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = Path(options.results, f"{began}-verdicts")
    folder.mkdir(parents=True)
    text = table(verdicts)
    (folder / "table.md").write_text(text)
    rows = {name: [_row(each) for each in v.findings] for name, v in verdicts.items()}
    (folder / "verdicts.json").write_text(json.dumps(rows, indent=2))
    for name, verdict in verdicts.items():
        (folder / f"{name}.html").write_text(page(verdict))
    print(f"\n{text}\nresults {folder}")


def _row(finding: Finding) -> dict[str, object]:
    names = ("stage", "check", "outcome", "seen", "seconds")
    return {name: getattr(finding, name) for name in names}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
