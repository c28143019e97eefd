"""make env: the secrets of docker-compose.yml, each made once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_make_env_makes_what_is_missing_and_no_more(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    folder = tmp_path / "secrets"
    kept: list[str] = []
    for _ in range(2):
        subprocess.run(["make", "env"], cwd=tmp_path, check=True, timeout=20)
        assert folder.stat().st_mode & 0o777 == 0o700
        found = {each.name: each for each in folder.iterdir()}
        assert sorted(found) == ["jupyter_token", "lab_secret", "redis_password"]
        for each in found.values():
            assert each.stat().st_mode & 0o777 == 0o444
            assert len(each.read_text().strip()) >= 32
        kept.append("".join(each.read_text() for _, each in sorted(found.items())))
    assert kept[0] == kept[1]
    assert (tmp_path / ".env").read_text() == "LAB_SECRETS=./secrets\n"
