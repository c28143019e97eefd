"""Chapters run from top to bottom, show what they claim, and store nothing private."""

from __future__ import annotations

import ast
import asyncio
import builtins
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import pytest_asyncio
from nbclient import NotebookClient
from nbformat import NotebookNode
from redis.asyncio import Redis

from labserver.contract.closing import Close
from labserver.mistakes import MISTAKES
from labserver.notebook import check, connected, running_cluster
from labserver.notebook.experiments.replicas import said
from labserver.notebook.workshop.checks import UnknownExercise, results
from labserver.notebook.workshop.exercises import EXERCISES
from labserver.server.metrics import Metrics
from labserver.simulated.loop import VirtualLoop
from labserver.stages import STAGES
from tests.conftest import eventually
from tests.support.chapters import CHAPTERS, FOLDER, build, chapter, defined
from tests.support.processes import alive

CHAPTER_LIMIT = 60.0  # seconds
CELL_LIMIT = 5.0
BUSY = 3  # a machine that runs other tests is at most so many times slower
STORED_LIMIT = 150 * 1024  # bytes of a stored chapter
THUMBNAIL_LIMIT = 16 * 1024
LINE = re.compile(r", line \d+")  # where a shown piece of code begins
VERDICTS = ("check(", "await probe(")  # how cells begin that judge a task


def stage_of(name: str) -> str:
    """Return the stage that a chapter is about, if it is about one."""
    stage = name[3:]
    return stage if stage in STAGES else ""


def stored(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def verdicts(notebook: NotebookNode) -> list[str]:
    """Return what the chapter says of each task."""
    return [
        output.data["text/plain"]
        for cell in code(notebook)
        if cell.source.startswith(VERDICTS)
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


async def run(notebook: NotebookNode) -> tuple[NotebookNode, list[float]]:
    """Execute a chapter; return it, and the seconds that each cell took."""
    started: dict[int, float] = {}
    taken: list[float] = []

    def starts(cell: NotebookNode, cell_index: int) -> None:
        started[cell_index] = time.monotonic()

    def ends(cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        taken.append(time.monotonic() - started[cell_index])

    hooks = {"on_cell_execute": starts, "on_cell_executed": ends}
    with build.workshop() as folder:
        return await build.client(notebook, folder, **hooks).async_execute(), taken


@pytest.mark.long
@pytest.mark.timeout(BUSY * CHAPTER_LIMIT)
@pytest.mark.parametrize("name", CHAPTERS)
async def test_chapter_runs_unsolved_and_then_solved_within_its_time(name: str) -> None:
    # In a fresh kernel; an error in any cell raises here. The tasks are solved after
    # everything else has run: no other section depends on them, see below.
    notebook = chapter(name)
    solutions = build.tasks(build.solved(chapter(name)))
    judged = [cell for cell in notebook.cells if cell.source.startswith(VERDICTS)]
    for number, cell in enumerate((*solutions, *judged)):
        again = nbformat.v4.new_code_cell(cell.source, id=f"again-{number}")
        notebook.cells.append(again)
    _, taken = await run(notebook)
    said = verdicts(notebook)
    unsolved, solved = said[: len(said) // 2], said[len(said) // 2 :]
    assert len(solved) == len(judged) == len(solutions)
    for each in unsolved:
        assert re.search("not (solved|written) yet$", each), each
    for each in solved:
        assert re.search(": right, |: kept, ", each), each
    assert sum(taken) < BUSY * CHAPTER_LIMIT
    assert max(taken) < BUSY * CELL_LIMIT


def exercise(name: str) -> NotebookNode:
    """Return a chapter's exercise, a function; its other task is a class."""
    task, *_ = build.tasks(chapter(name))
    return task


def solution(name: str) -> str:
    first, *_ = build.solutions(chapter(name))
    return first


def test_heartbeat_that_chapter_4_solves_waits_for_who_has_just_read_its_ping() -> None:
    loop = VirtualLoop("seed", disorder=0)

    class Reader:
        """Takes what lies before each ping for 0.7 s, and answers 0.1 s later."""

        pinged = seen = 0.0
        ended = False

        def send_ping(self) -> None:
            self.pinged = loop.time()
            loop.call_later(0.8, self.answer)

        def answer(self) -> None:
            self.seen = loop.time()

        def reads(self) -> bool:
            return loop.time() - self.pinged < 0.7

        def cut(self, closing: Close) -> None:
            self.ended = True

    async def ten_intervals(reader: Reader) -> None:
        heartbeat = defined(build.solutions(chapter("04_heartbeat"))[1])(1.0)
        await heartbeat.start(Metrics())
        heartbeat.watch(reader)
        await asyncio.sleep(10)
        await heartbeat.stop()

    reader = Reader()
    loop.run_until_complete(ten_intervals(reader))
    loop.close()
    assert reader.seen > 0
    assert not reader.ended


@pytest.mark.parametrize("name", CHAPTERS)
def test_stored_chapter_shows_the_code_that_runs(name: str) -> None:
    names: dict[str, Any] = {}
    for cell in code(stored(name)):
        tree = ast.parse(cell.source)
        found = [each for each in tree.body if isinstance(each, ast.ImportFrom)]
        exec(compile(ast.Module([*found], []), name, "exec"), names)
        if ast.unparse(tree.body[-1]).startswith("show("):
            shown = eval(ast.unparse(tree.body[-1]), names)._repr_html_()
            kept = cell.outputs[-1].data["text/html"]
            assert LINE.sub("", kept) == LINE.sub("", shown)


@pytest.mark.parametrize("name", CHAPTERS)
def test_exercise_fails_unsolved_and_passes_with_its_solution(name: str) -> None:
    empty = check(defined(exercise(name).source))
    assert not empty.solved and not empty.passed
    assert "not solved yet" in empty._repr_markdown_()
    full = check(defined(solution(name)))
    assert full.passed
    assert "Right" in full._repr_markdown_()


@pytest.mark.parametrize("name", CHAPTERS)
def test_solution_is_three_to_eight_lines_and_the_cell_leaves_them_out(
    name: str,
) -> None:
    lines = solution(name).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("def "))
    body = [line for line in lines[start + 1 :] if line.strip()]
    assert 2 <= len(body) <= 8
    assert body[-1] not in exercise(name).source


@pytest.mark.parametrize(
    ("exercise", "mistake"),
    [
        pytest.param(exercise, mistake, id=f"{exercise.name}-{mistake.answer.__name__}")
        for exercise in EXERCISES.values()
        for mistake in exercise.mistakes
    ],
)
def test_known_wrong_answer_is_recognised(exercise, mistake, monkeypatch) -> None:
    wrong = check(renamed(mistake.answer, exercise.name))
    assert wrong.solved and not wrong.passed
    assert wrong.reason == mistake.reason
    shown = wrong._repr_markdown_()
    for words in ("yours", "expected", "Look at", mistake.reason):
        assert words in shown


def renamed(answer: Any, name: str) -> Any:
    def call(*given: Any) -> Any:
        return answer(*given)

    call.__name__ = name
    return call


def test_unknown_wrong_answer_gets_no_reason_but_its_exception() -> None:
    def dead(peers: Any, now: float, patience: float) -> list[str]:
        raise ValueError("no idea")

    wrong = check(dead)
    assert not wrong.passed and not wrong.reason
    assert "ValueError: no idea" in wrong._repr_markdown_()


def test_half_an_answer_is_not_taken_for_none() -> None:
    def may_connect(origin: str | None, host: str) -> bool:
        return True

    assert check(may_connect).solved


def test_check_of_something_else_says_so() -> None:
    with pytest.raises(UnknownExercise, match="no exercise 'print'"):
        check(print)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_cases_survive_an_answer_that_changes_them(exercise) -> None:
    before = repr([case.given for case in exercise.cases])
    for mistake in exercise.mistakes:
        results(exercise, mistake.answer)
    assert repr([case.given for case in exercise.cases]) == before


def test_every_exercise_belongs_to_a_chapter() -> None:
    asked = {defined(solution(name)).__name__ for name in CHAPTERS}
    assert asked == set(EXERCISES)


# Stored chapters


@pytest.mark.parametrize("name", CHAPTERS)
def test_stored_chapter_holds_the_cells_of_its_source(name: str) -> None:
    def cells(notebook: NotebookNode) -> list[tuple[str, str, str]]:
        return [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells]

    assert cells(stored(name)) == cells(chapter(name))


@pytest.mark.parametrize("name", CHAPTERS)
def test_stored_chapter_was_run_from_top_to_bottom_without_error(name: str) -> None:
    counts = [cell.execution_count for cell in code(stored(name))]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {
        output.output_type for cell in code(stored(name)) for output in cell.outputs
    }
    assert "error" not in kinds
    streams = [
        output.name
        for cell in code(stored(name))
        for output in cell.outputs
        if output.output_type == "stream"
    ]
    assert "stderr" not in streams


@pytest.mark.parametrize("name", CHAPTERS)
def test_stored_chapter_names_no_place_on_this_machine_and_no_token(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    text = re.sub(r'"image/png": ".*"', "", text)
    assert str(FOLDER.parent) not in text
    assert str(Path.home()) + "/" not in text
    assert sys.prefix not in text
    assert not re.search(r"eyJ[\w-]+\.[\w-]+", text)  # how every JWT begins
    assert "iopub" not in text  # times of execution


@pytest.mark.parametrize("name", CHAPTERS)
def test_stored_chapter_is_small_and_has_a_picture(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < STORED_LIMIT
    assert any(
        "image/png" in output.get("data", {})
        for cell in code(stored(name))
        for output in cell.outputs
    )


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_has_the_form_of_a_chapter(name: str) -> None:
    notebook = chapter(name)
    first = notebook.cells[0].source
    assert re.match(rf"# {int(name[:2])} · ", first)
    assert "**Promise:**" in first and "minutes" in first
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    headings = ["Break", "Predict", "Read", "Run", "Observe", "Exercise"]
    places = [prose.index(f"\n## {word}") for word in headings if word != "Predict"]
    assert places == sorted(places)
    for part in ("## Predict", "<summary>Hint</summary>", "locust -f loadtests"):
        assert part in prose
    assert "## What still breaks" in notebook.cells[-1].source
    setup = ast.parse(code(notebook)[0].source).body
    assert {type(statement) for statement in setup} == {ast.ImportFrom}


def sections(notebook: NotebookNode) -> dict[str, list[str]]:
    """Return the code by heading; the section "Observe" belongs to "Run"."""
    found: dict[str, list[str]] = {"": []}
    title = ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found[title].append(cell.source)
        for heading in re.findall(r"^## (.+)$", cell.source, re.MULTILINE):
            if cell.cell_type == "markdown" and not heading.startswith("Observe"):
                title = heading
                found.setdefault(title, [])
    return found


def names(code: str) -> tuple[set[str], set[str]]:
    """Return the names that code binds, and those that it reads."""
    bound, read = set[str](), set[str]()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name):
                bound.add(name)
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add(other or name)
    return bound, read


@pytest.mark.parametrize("name", CHAPTERS)
def test_section_needs_the_setup_and_no_other_section(name: str) -> None:
    # So a chapter can be run from its middle after a restart of the kernel.
    (setup,), *_ = sections(chapter(name)).values()
    given = names(setup)[0] | set(dir(builtins))
    for title, cells in sections(chapter(name)).items():
        bound, read = names("\n".join(cells))
        assert read <= given | bound, title


@pytest.mark.long
@pytest.mark.timeout(CHAPTER_LIMIT)
async def test_sections_run_in_any_order_and_again() -> None:
    (setup,), *rest = sections(chapter("01_echo")).values()
    cells = [setup, *(cell for part in reversed(rest) for cell in part), *rest[0]]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
    )
    await run(notebook)  # an error in any cell raises here


@pytest.mark.parametrize("name", [name for name in CHAPTERS if stage_of(name)])
def test_chapter_shows_every_mistake_of_its_stage_failing(name: str) -> None:
    stage = stage_of(name)
    text = "\n".join(cell.source for cell in code(chapter(name)))
    assert re.search(rf'^await compare\("{stage}", "[a-z-]+"\)$', text, re.MULTILINE)
    (shown,) = [
        output.data["text/markdown"]
        for cell in code(stored(name))
        if cell.source == f'await mistakes("{stage}")'
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    for mistake in MISTAKES.values():
        assert (f"| `{mistake.name}` |" in shown) is (mistake.stage == stage)
    assert "| nothing |" not in shown
    found = re.search(r"in (\d+) of (\d+) probes", shown)
    assert found is not None and found[1] == found[2]


@pytest.mark.parametrize("name", CHAPTERS)
def test_index_has_a_line_and_a_thumbnail_of_the_chapter(name: str) -> None:
    title = chapter(name).cells[0].source.partition("\n")[0].removeprefix("# ")
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if f"notebooks/{name}.ipynb" in line]
    assert len(rows) == 1
    assert f"[{title}](notebooks/{name}.ipynb)" in rows[0]
    assert f"notebooks/thumbnails/{name}.png" in rows[0]
    assert (FOLDER / "thumbnails" / f"{name}.png").stat().st_size < THUMBNAIL_LIMIT


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_brings_no_locust_and_no_pyplot_into_the_kernel(name: str) -> None:
    text = "\n".join(cell.source for cell in code(chapter(name)))
    assert not re.search(r"import locust|from locust|pyplot|ipywidgets", text)


# Measurements of chapters


async def test_measurement_goes_on_after_redis_stood_still() -> None:
    async with (
        running_cluster(1, "broker") as cluster,
        connected(cluster.replicas[0], "ann", "red") as ann,
        Redis.from_url(cluster.redis) as redis,
    ):
        assert await said(ann, "red") == 1
        await redis.client_pause(2500)  # ms: longer than a replica waits for an answer
        assert await said(ann, "red") >= 2
        assert ann.of("error")


# Processes that a chapter starts are stopped

ENDLESS = """
import asyncio
from labserver.notebook import running
async with running("echo") as server:
    print(server.pid, flush=True)
    await asyncio.sleep(60)
"""
CLUSTER = """
import asyncio
from labserver.notebook import connected, running_cluster
async with running_cluster(1) as cluster, connected(cluster.replicas[0], "ann", "a"):
    print(cluster.replicas[0].pid, flush=True)
    await asyncio.sleep(60)
"""


async def printed(client: NotebookClient) -> str:
    """Return what the kernel prints next."""
    while True:
        message = await client.kc.get_iopub_msg(timeout=20)
        content = message["content"]
        # A starting kernel may have a warning of its own on stderr.
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            return content["text"].strip()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel() -> AsyncIterator[NotebookClient]:
    """A kernel for several tests: its start takes longer than they do."""
    client = build.client(nbformat.v4.new_notebook(), FOLDER)
    async with client.async_setup_kernel():
        yield client


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.timeout(60)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("how", "cell"),
    [("interrupt", ENDLESS), ("interrupt", CLUSTER), ("restart", ENDLESS)],
    ids=["interrupt", "interrupt-cluster", "restart"],
)
async def test_server_is_stopped_when_its_cell_ends_early(
    how: str, cell: str, kernel: NotebookClient
) -> None:
    # Otherwise the kernel drops later requests while the error is on its way.
    kernel.kc.execute(cell, stop_on_error=False)
    pid = int(await printed(kernel))
    assert alive(pid)
    if how == "interrupt":
        await kernel.km.interrupt_kernel()
    else:
        await kernel.km.restart_kernel()
        await kernel.kc.wait_for_ready(timeout=20)
    await eventually(lambda: not alive(pid), within=10)
    kernel.kc.execute("print('still here')")
    assert await printed(kernel) == "still here"
