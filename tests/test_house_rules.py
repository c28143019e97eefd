"""The rules of the architecture, as tests that fail when a rule is broken."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

import labserver
from labserver.client import Client
from labserver.mistakes import MISTAKES
from labserver.server.parts import Parts
from labserver.settings import Settings
from labserver.stages import STAGES, build, naive

PACKAGE = Path(labserver.__file__).parent
ROOMS = {
    path.stem: path
    for path in PACKAGE.iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
}
SETTINGS = Settings(secret="s" * 32, redis="unix:///nowhere")

# A folder, or a file beside the folders, may import those on the lines above its own.
LAYERS = [
    {"errors"},
    {"contract"},
    {"client", "settings"},
    {"server"},
    {"redis"},
    {"stages"},
    {"http"},
    {"mistakes"},
    {"processes"},
    {"judge"},
    {"simulated"},
    {"demo", "load"},
    {"notebook"},
    {"cli"},
    {"__main__", "__init__"},
]
LEAVES = [
    PACKAGE / name
    for name in (
        "errors.py",
        "settings.py",
        "contract/closing.py",
        "contract/messages.py",
        "judge/oracle.py",
        "server/entry.py",
        "server/ledger.py",
        "server/intake.py",
        "server/limits.py",
        "server/proxies.py",
        "stages/backlog.py",
        "stages/keys.py",
    )
]


def modules(path: Path) -> set[str]:
    """Return the modules of the package that a file, or a folder of them, imports."""
    if path.is_dir():
        return set().union(*map(modules, path.rglob("*.py")))
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "labserver":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("labserver."):
                inside = node.module.removeprefix("labserver.")
                found |= {inside, *(f"{inside}.{alias.name}" for alias in node.names)}
    return found


def imports(path: Path) -> set[str]:
    """Return the folders, and files beside them, that a file or a folder imports."""
    rooms = {name.partition(".")[0] for name in modules(path)}
    return (rooms & ROOMS.keys()) - {path.stem}


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_folder_imports_only_from_layers_above(name: str) -> None:
    level = next(i for i, layer in enumerate(LAYERS) if name in layer)
    allowed = set().union(*LAYERS[:level])
    assert imports(ROOMS[name]) <= allowed


def test_every_folder_has_a_layer() -> None:
    assert set(ROOMS) == set().union(*LAYERS)


@pytest.mark.parametrize("name", ["", "workshop", "experiments", "sizing"])
def test_rooms_of_the_notebook_do_not_import_each_other(name: str) -> None:
    folder = PACKAGE / "notebook"
    beside = set(folder.glob("*.py")) - {folder / "__init__.py"}
    rooms = {each.parent.name for each in folder.glob("*/__init__.py")}
    files = (folder / name).rglob("*.py") if name else beside
    used = {
        each.split(".")[1]
        for file in files
        for each in modules(file)
        if each.startswith("notebook.")
    }
    assert used & rooms <= {name}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_stages_never_import_each_other(stage) -> None:
    others = {f"stages.{name}" for name in STAGES}
    assert not modules(stage.file) & others


@pytest.mark.parametrize("name", [n for n in MISTAKES if MISTAKES[n].extend])
def test_mistake_replaces_exactly_one_part(name: str) -> None:
    mistake = MISTAKES[name]
    for last in (mistake.stage, "resume"):
        right = build(last, SETTINGS)
        assert mistake.extend is not None
        wrong = mistake.extend(right, SETTINGS)
        changed = [
            field.name
            for field in fields(Parts)
            if getattr(wrong, field.name) is not getattr(right, field.name)
        ]
        assert len(changed) == 1


def test_mistakes_of_the_client_leave_the_server_alone() -> None:
    for mistake in MISTAKES.values():
        assert (mistake.extend is None) is (mistake.client is not Client)


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_leaves_do_no_io(path: Path) -> None:
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not names & {"asyncio", "socket", "subprocess", "threading", "time"}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_stage_replaces_exactly_one_part(stage) -> None:
    before = naive()
    after = stage.extend(before, SETTINGS)
    changed = [
        field.name
        for field in fields(Parts)
        if getattr(after, field.name) != getattr(before, field.name)
    ]
    if stage.name == "echo":  # the first application is the naive one
        assert changed == []
    else:
        assert len(changed) == 1


def test_stages_replace_different_parts_but_for_the_application() -> None:
    replaced = []
    before = build("echo", SETTINGS)
    for stage in list(STAGES.values())[1:]:
        after = stage.extend(before, SETTINGS)
        replaced += [
            field.name
            for field in fields(Parts)
            if getattr(after, field.name) != getattr(before, field.name)
        ]
        before = after
    assert sorted(replaced) == sorted(field.name for field in fields(Parts))


def kind(part: object) -> object:
    """Return the class of a part: parts that are classes stand for themselves."""
    return part if isinstance(part, type) else type(part)


@pytest.mark.parametrize("name", [*STAGES][1:])
def test_without_puts_the_naive_part_back(name: str) -> None:
    plain = naive()
    part = next(
        field.name
        for field in fields(Parts)
        if getattr(STAGES[name].extend(plain, SETTINGS), field.name)
        is not getattr(plain, field.name)
    )
    ablated = build("resume", SETTINGS, without=[name])
    whole = build("resume", SETTINGS)
    assert kind(getattr(ablated, part)) is kind(getattr(plain, part))
    assert kind(getattr(whole, part)) is not kind(getattr(plain, part))


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_stage_starts_with_its_promise(stage) -> None:
    lines = (stage.module.__doc__ or "").splitlines()
    assert lines[0].endswith(".")
    assert any(line.startswith("Without this, ") for line in lines)
    assert any(line.startswith("How: ") for line in lines)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_stage_fits_one_notebook_cell(stage) -> None:
    code = [
        line
        for line in stage.file.read_text().splitlines()
        if line.strip() and not line.startswith(("import ", "from "))
    ]
    assert len(code) <= 150


@pytest.fixture(scope="module")
def sources() -> dict[Path, ast.Module]:
    """The project's Python files."""
    root = PACKAGE.parent
    folders = ("labserver", "tests", "loadtests", "bench", "chaos", "notebooks")
    folders += ("examples",)
    paths = [path for folder in folders for path in (root / folder).rglob("*.py")]
    assert len(paths) > 400
    return {path: ast.parse(path.read_text()) for path in paths}


def test_files_say_what_they_are_for(sources: dict[Path, ast.Module]) -> None:
    assert [
        path
        for path, tree in sources.items()
        if not ast.get_docstring(tree) and path.parent.name != "source"  # chapters
    ] == []


def test_no_class_is_called_manager_helper_or_base(
    sources: dict[Path, ast.Module],
) -> None:
    words = ("Manager", "Helper", "Utils", "Base", "Impl")
    assert [
        (path, node.name)
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith(words)
    ] == []
