"""The command line of the load tests, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from labserver.load.commands import start

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def loadtests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return what runs ``python -m loadtests`` for exit status, stdout and stderr."""
    monkeypatch.chdir(Path(__file__).parents[2])

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loadtests", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            start()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run
