"""An installation from the wheel works without a checkout."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from pathlib import Path

import pytest

from labserver.contract.tokens import issue
from tests.conftest import SECRET, peer

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(180),
]  # the build fetches its backend
OWN = {
    name: text
    for name, text in os.environ.items()
    if name != "PYTHONPATH" and not name.startswith("LAB_")
}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside of the checkout; return its output."""
    said = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=OWN,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stdout[-2000:]
    return said.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A fresh environment with the wheel, which uses this one's dependencies."""
    home = wheel.parent / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=wheel.parent)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "--python", python, "install", "-q", "--no-deps", wheel, cwd=home)
    (site,) = home.glob("lib/python*/site-packages")
    # A .pth file adds this folder only, not the .pth files (editable installs) in it.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import labserver; print(labserver.__file__)", cwd=home)
    assert Path(where.strip()).is_relative_to(home)
    return home


def test_wheel_holds_every_file_that_is_no_python(wheel: Path) -> None:
    package = ROOT / "labserver"
    data = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "labserver/redis/publish.lua",
        "labserver/server/console/index.html",
    } <= data
    assert data <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "loadtests/")) for name in names)


def test_version_is_that_of_the_wheel(wheel: Path, installed: Path) -> None:
    said = run(installed / "bin" / "labserver", "--version", cwd=installed)
    assert said == f"labserver {wheel.name.split('-')[1]}\n"


async def test_installed_server_serves_rooms_and_its_page(installed: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(installed / "bin" / "labserver"), "serve", "--port", "0"),
        cwd=installed,
        env={**OWN, "LAB_SECRET": SECRET},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            url = (await process.stdout.readline()).decode().split()[2]
        async with peer(url, token=issue(SECRET, "ann")) as ann:
            await ann.join("lobby")
            await ann.send(type="publish", room="lobby", payload="hello")
            assert (await ann.until("message"))["payload"] == "hello"
        for path in ("", "console.css", "console.js", "lab-client.js"):
            http = url.replace("ws://", "http://", 1) + f"/{path}"
            assert await asyncio.to_thread(status, http) == 200
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(20):
            await process.communicate()
    assert process.returncode == 0


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as response:
        found: int = response.status
        return found
