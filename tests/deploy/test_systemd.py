"""deploy/systemd: the unit is what systemd accepts and the server understands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from labserver.settings import Settings, from_environment, unknown_variables

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "labserver@.service"
TEXT = UNIT.read_text()


def value(name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.*)$", TEXT, re.MULTILINE)
    return str(found)


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    here = Path(sys.executable).parent  # the program has to be there
    text = TEXT.replace("/opt/labserver/bin", str(here))
    for name in ("labserver@.service", "labserver@8081.service"):
        (tmp_path / name).write_text(text)
    said = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "labserver@8081.service")],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_its_variables_are_the_servers_own(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s" * 32)
    lines = re.findall(r"^Environment=(.*)$", TEXT, re.MULTILINE)
    given = dict(pair.split("=", 1) for line in lines for pair in shlex.split(line))
    given["LAB_SECRET_FILE"] = given["LAB_SECRET_FILE"].replace("%d", str(tmp_path))
    assert not unknown_variables(given)
    assert from_environment(given).secret == "s" * 32


def test_a_drain_has_the_time_that_it_needs() -> None:
    assert float(value("TimeoutStopSec")) > Settings().drain_timeout + 5
    assert value("RestartPreventExitStatus") == "2"
