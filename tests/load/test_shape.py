"""Loads by a table: ``--shape``."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from labserver.processes.cluster import running_replica
from tests.load.test_loadtests import SECRET, figures, locust, printed, written

HEAD = "seconds,users,rate\n"
BAD = [
    ("", "its first line must be"),
    ("a,b\n1,2\n", "its first line must be"),
    (HEAD, "two lines at least"),
    (HEAD + "0,3,1\n", "two lines at least"),
    (HEAD + "1,3,1\n5,3,1\n", "line 2: the first stage begins at 0"),
    (HEAD + "0,3,1\n5,3,1\n5,3,1\n", "line 4: its seconds are not after"),
    (HEAD + "0,3,1\n5,x,1\n", "line 3 must have three numbers"),
    (HEAD + "0,3,1\n5,3\n", "line 3 must have three numbers"),
    (HEAD + "0,3,1\n5,3,0\n", "rate must be from"),
    (HEAD + "0,-3,1\n5,3,1\n", "users must be from"),
    (HEAD + "0,3,1\nnan,3,1\n", "seconds must be from"),
    (HEAD + "0,3,1\n99999,3,1\n", "seconds must be from"),
    (HEAD + '0,3,1\n5,"3\n', "not a CSV file"),
]
READ = """
import sys
from pathlib import Path
from labserver.load.run.shape import read_stages, Table
for each in Path({folder!r}).glob("*.csv"):
    try:
        print(each.stem, read_stages(each, 5000, 3600))
    except ValueError as exc:
        print(each.stem, exc)
stages = read_stages(Path({folder!r}) / "good", 5000, 3600)
shape = Table(stages, 6)
for now in (0, 1.9, 2, 5.9, 6):
    shape.get_run_time = lambda: now
    print("at", now, shape.tick())
"""


async def test_table_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    for number, (text, _) in enumerate(BAD):
        (tmp_path / f"{number}.csv").write_text(text)
    (tmp_path / "good").write_text("\ufeffusers, seconds, rate\n3,0,3\n9,2,4.5\n3,6,1")
    said = (await printed(READ.format(folder=str(tmp_path)))).splitlines()
    answers = dict(line.split(" ", 1) for line in said if not line.startswith("at"))
    for number, (_, sentence) in enumerate(BAD):
        assert sentence in answers[str(number)]
    assert [line for line in said if line.startswith("at")] == [
        "at 0 (3, 3.0)",
        "at 1.9 (3, 3.0)",
        "at 2 (9, 4.5)",
        "at 5.9 (9, 4.5)",
        "at 6 None",
    ]


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_users_come_and_go_by_the_table_and_nobody_misses_anything(
    tmp_path: Path,
) -> None:
    table = tmp_path / "shape.csv"
    table.write_text(HEAD + "0,3,3\n3,9,9\n6,3,9\n9,3,1\n")
    results = tmp_path / "results"
    async with running_replica(secret=SECRET) as replica:
        code, out, err = await locust(
            *("--host", replica.url, "--shape", str(table), "--scenario", "fanout"),
            *("--results", str(results), "--lag-limit", "10000", "--no-pictures"),
            LAB_SECRET=SECRET,
        )
    assert code == 0, out + err
    tally = figures(results)["completeness"]["fanout/subscribers"]
    assert tally["delivered"] == tally["expected"] > 0
    folder = written(results)
    assert folder is not None
    assert "cut_short" not in (folder / "run.json").read_text()
    with (folder / "timeline.csv").open() as file:
        users = [int(row["users"]) for row in csv.DictReader(file)]
    assert max(users) == 9
    assert 3 in users[: users.index(9)] and 3 in users[users.index(9) :]


@pytest.mark.long
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--shape", "nowhere.csv"), "No such file"),
        (("--shape", "README.md"), "its first line must be"),
        (("--shape", "README.md", "-u", "3"), "leave out -u"),
    ],
)
async def test_locust_refuses_a_shape_in_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    code, out, err = await locust(
        *("--host", "ws://127.0.0.1:9", "--results", str(tmp_path), *arguments),
        LAB_TOKEN="t",
    )
    assert code == 2, out + err
    assert sentence in err.splitlines()[-1]
    assert written(tmp_path) is None
