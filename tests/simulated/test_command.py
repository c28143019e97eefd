"""The command searches seeds; what breaks a promise is written and replayed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labserver.simulated.__main__ import main


@pytest.mark.long
@pytest.mark.timeout(90)
def test_broken_seed_is_made_smaller_written_and_replayed(tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "labserver.simulated", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    found = command("--seeds", "1", "--jobs", "1", "--mistake", "own-message-twice")
    assert found.returncode == 1, found.stderr
    assert "\n1 seeds broke a promise\n" in found.stdout
    assert found.stdout.endswith("seed 0, shrunk: results/simulated/0.json, 0.html\n")
    replayed = command("--replay", "results/simulated/0.json", "--trace")
    assert replayed.returncode == 1
    assert "broken: " in replayed.stdout and "duplicated" in replayed.stdout
    page = (tmp_path / "results/simulated/0.html").read_text()
    assert "<svg" in page and "duplicated" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--mistake", "nonsense"], "there is no mistake 'nonsense'"),
        (["--replay", "nowhere.json"], "nowhere.json cannot be replayed: No such file"),
        (["--replay", "broken.json"], "broken.json cannot be replayed: "),
    ],
)
def test_bad_argument_is_said_in_one_sentence(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.json").write_text('{"seed": 1')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["labserver.simulated", *arguments])
    try:
        status = main()
    except SystemExit as exc:  # of argparse
        status = int(str(exc.code))
    assert status == 2
    assert said in capsys.readouterr().err
