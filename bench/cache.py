"""Things made once and kept outside the checkout: C programs, Node's modules."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSTALL_TIMEOUT = 120.0  # seconds that npm may take
# Modules of the Node server, with the versions that it was written for.
NODE_MODULES = ("ws@^8.18", "ioredis@^5.4")


class Missing(Exception):
    """Something needed is not on this machine; the message says what."""


def cache() -> Path:
    """Return the folder of the cache; make it if needed."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(home, "labserver-peers")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold a lock, so that only one process makes the thing ``name``."""
    with open(cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compiled(name: str) -> Path:
    """Return the program made from a C file beside this one.

    Raises:
        Missing: There is no C compiler, or it cannot compile the program.

    """
    source = HERE / name
    mark = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = cache() / f"{source.stem}-{mark}"
    with alone(source.stem):
        if program.exists():
            return program
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise Missing(f"{name} needs a C compiler: install gcc or clang")
        draft = program.with_suffix(".tmp")
        command = [compiler, "-O2", "-o", str(draft), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise Missing(f"{name} cannot be compiled here (it needs Linux): {why}")
        draft.replace(program)
    return program


def node_modules() -> Path:
    """Return a folder with Node's modules; install them the first time.

    Raises:
        Missing: Node or npm is not installed, or npm cannot install the modules.

    """
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            raise Missing(f"{name} is not installed")
    mark = hashlib.sha256(" ".join(NODE_MODULES).encode()).hexdigest()[:12]
    folder = cache() / f"node-{mark}"
    with alone("node"):
        if (folder / "ready").exists():
            return folder
        folder.mkdir(exist_ok=True)
        # Without a package.json here, npm would use one of a parent folder.
        (folder / "package.json").write_text('{"private": true}\n')
        command = ["npm", "install", "--no-audit", "--no-fund", *NODE_MODULES]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise Missing(f"npm took more than {INSTALL_TIMEOUT:.0f} s") from None
        if done.returncode:
            lines = [each for each in done.stderr.splitlines() if "ERR" in each.upper()]
            raise Missing(f"npm install failed: {(lines or ['?'])[0]}")
        (folder / "ready").touch()
    return folder
