"""The part that a chapter asks for: its solution is short, and mistakes are explained.

That it passes unsolved as not written, and solved as kept, the test of the whole
chapter shows in a kernel.
"""

from __future__ import annotations

import pytest

from labserver.judge.run import Finding
from labserver.notebook import probe
from labserver.notebook.workshop import probing
from labserver.notebook.workshop.reasons import REASONS, reason
from tests.support.chapters import CHAPTERS, build, chapter, defined
from tests.support.wrongs import WRONGS
from tests.support.wrongs.wrong import Wrong

pytestmark = [
    pytest.mark.builds,
    pytest.mark.timeout(60),
    # A wrong admission takes HS512, which wants a longer secret.
    pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning"),
    # A wrong broker may leave a connection open.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# To number, publish and hear, and to tell what was not heard, are one thing.
LONGEST = {"06_broker": 55}  # lines
BUILDS = [name for name in CHAPTERS if len(build.tasks(chapter(name))) > 1]


def parts(name: str) -> list[tuple[str, str]]:
    """Return the solution of each part that a chapter builds, and its cell."""
    notebook = chapter(name)
    cells = [each.source for each in build.tasks(notebook)]
    return list(zip(build.solutions(notebook), cells, strict=True))[1:]


@pytest.mark.parametrize("name", BUILDS)
def test_solution_fits_a_cell_and_the_cell_leaves_it_out(name: str) -> None:
    written = 0
    for solution, cell in parts(name):
        lines = solution.splitlines()
        begins = ("class ", "async def ", "def ")
        start = next(i for i, line in enumerate(lines) if line.startswith(begins))
        body = [line for line in lines[start:] if line.strip()]
        assert lines[start].split("(")[0].rstrip(":") in cell
        assert body[-1] not in cell
        written += sum(line not in cell for line in body)
    assert 15 <= written <= LONGEST.get(name, 40)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param(name, wrong, id=f"{name}-{wrong.name}")
        for name, wrongs in WRONGS.items()
        for wrong in wrongs
    ],
)
async def test_wrong_part_is_recognised_by_what_the_checks_see(
    name: str, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is known to be wrong needs no second look, which takes most of the time.
    monkeypatch.setattr(probing, "PATIENT", 0.0)
    source, _ = parts(name)[wrong.number - 1]
    for old, new in wrong.edits:
        assert old in source
        source = source.replace(old, new)
    probed = await probe(defined(source + wrong.more), before=wrong.before)
    assert probed.written and not probed.kept
    assert probed.why.startswith(wrong.because), repr(probed)
    assert probed.why in probed._repr_markdown_()


def test_too_few_pings_are_told_from_a_ping_that_waits() -> None:
    # Whether a peer reads when its only ping comes is chance, so both may be seen.
    seen = {
        "who_vanished_is_ended": "a dead peer with a full buffer is still connected",
        "pings_are_no_burst": "waited 2 s in vain for a ping to each",
    }
    findings = [
        Finding("heartbeat", check, "", "broken", words)
        for check, words in seen.items()
    ]
    assert reason("heartbeat", findings, ()).startswith("too few pings")


def test_slow_reader_that_is_cut_is_no_cause_where_somebody_waits_for_it() -> None:
    # A heartbeat that awaits its pings cuts a slow reader or not, by chance.
    seen = {
        "who_reads_slowly_stays": "a member that reads 60 kB every 0.1 s was ended",
        "who_vanished_is_ended": "a dead peer with a full buffer is still connected",
    }
    findings = [
        Finding("heartbeat", check, "", "broken", words)
        for check, words in seen.items()
    ]
    assert reason("heartbeat", findings, ()).startswith("somebody waits for a peer")


def test_every_explanation_has_a_wrong_part() -> None:
    words = [wrong.because for wrongs in WRONGS.values() for wrong in wrongs]
    for reasons in REASONS.values():
        for each in reasons:
            assert any(each.because.startswith(begin) for begin in words), each.because
