"""What is made once and kept outside the checkout: C programs, Node's modules."""

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
# What Node's rivals are made of, with the versions that they were written for.
NODE_MODULES = ("ws@^8.18", "ioredis@^5.4")


class Missing(Exception):
    """Something that is not on this machine is needed; the message says what."""


def cache() -> Path:
    """Return the folder; it is made if it is not there."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(home, "labserver-peers")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Keep other processes from making the same thing at the same time."""
    with open(cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compiled(name: str) -> Path:
    """Return the program made from a C file beside this one.

    Raises:
        Missing: There is no C compiler, or it does not take the program.

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
    """Return a folder in which Node finds the modules; they are installed once.

    Raises:
        Missing: Node or npm is not here, or npm has nowhere to get them from.

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
        # Without a package.json of its own, npm would look for one further up.
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
