"""The files around the project: metadata, forms, workflow, containers, citation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from labserver import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
SCHEMAS = {
    ".github/workflows/ci.yml": "vendor.github-workflows",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    ".github/ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/chapter.yml": "vendor.github-issue-forms",
    "CITATION.cff": "vendor.citation-file-format",
}


def test_files_keep_their_schemas() -> None:
    # One process for all of them: its imports take seconds.
    from check_jsonschema import main
    from click.testing import CliRunner

    for file, schema in SCHEMAS.items():
        flags = ["--builtin-schema", schema, "--default-filetype", "yaml"]
        said = CliRunner().invoke(main, [*flags, str(ROOT / file)])
        assert said.exit_code == 0, said.output


def test_every_form_has_a_schema() -> None:
    forms = (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()
    assert {f".github/ISSUE_TEMPLATE/{form.name}" for form in forms} <= SCHEMAS.keys()


def test_workflow_runs_what_the_metadata_promises() -> None:
    (job,) = WORKFLOW["jobs"].values()
    said = {each.rpartition(" :: ")[2] for each in PROJECT["classifiers"]}
    assert set(job["strategy"]["matrix"]["python"]) == {
        each for each in said if re.fullmatch(r"3\.\d+", each)
    }
    assert job["steps"][-1] == {"run": ".ci/run"}


def test_citation_has_the_version_and_the_license() -> None:
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert facts["version"] == __version__
    assert facts["license"] == PROJECT["license"]
    assert facts["authors"] == PROJECT["authors"]


@pytest.mark.parametrize(
    ("version", "words"),
    [((3, 10), "Python 3.11 or later is needed"), ((3, 14), "install Redis")],
)
def test_make_says_what_an_old_or_a_new_python_needs(
    version: tuple[int, int], words: str, tmp_path: Path
) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    code = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    python.write_text(
        f"#!/bin/sh\n[ $1 = -c ] || exit 1\nexec {sys.executable} -c '{code}' \"$2\"\n"
    )
    python.chmod(0o755)
    said = subprocess.run(
        [shutil.which("make") or "make", f"PYTHON={python}", ".venv/ready"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},  # without any Redis
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20,
    )
    assert words in said.stdout


def test_make_looks_for_tests_that_run_alone_where_they_are() -> None:
    (named,) = re.findall(r"-m alone (\S+)", (ROOT / "Makefile").read_text())
    marked = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^\s*@?pytest.*mark\.alone", path.read_text(), re.M)
    ]
    assert marked == [named]


def test_container_and_binder_have_what_make_installs() -> None:
    make = (ROOT / "Makefile").read_text()
    (extras,) = re.findall(r"install .*'\.\[(notebooks[a-z,]*)\]'", make)
    binder = (ROOT / ".binder" / "requirements.txt").read_text()
    assert f"-e .[{extras.removesuffix(',dev')}]" in binder.splitlines()
    runtime = (ROOT / ".binder" / "runtime.txt").read_text().strip()
    said = {each.rpartition(" :: ")[2] for each in PROJECT["classifiers"]}
    assert runtime.removeprefix("python-") in said
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    target = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{re.escape(target)}:", make, re.M)
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).exists()


@pytest.mark.parametrize("folder", ["labserver", "bench", "examples", "chaos"])
def test_extra_that_a_message_names_can_be_installed(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        text = file.read_text()
        # Not by the project's name: another project may have it in the package index.
        assert not re.search(r"pip install \S*labserver\[", text), file
        for named in re.findall(r"pip install [^\n]*'\.\[(\w+)\]'", text):
            assert named in PROJECT["optional-dependencies"], file
