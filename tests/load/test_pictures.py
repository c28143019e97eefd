"""Pictures that cannot mislead: verdicts, claims, axes, words, a phone."""

from __future__ import annotations

import importlib
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from tests.load.test_figures import recorded
from tests.load.test_load_results import saved
from tests.load.test_loadtests import printed
from tests.support.chromium import launched, needs_browser

_drawing = importlib.import_module("labserver.load.pictures.drawing")
_gallery = importlib.import_module("labserver.load.pictures.gallery")
_record = importlib.import_module("labserver.load.figures.record")
_report = importlib.import_module("labserver.load.pictures.report")
_saved = importlib.import_module("labserver.load.figures.saved")
_special = importlib.import_module("labserver.load.pictures.special")
_steps = importlib.import_module("labserver.load.pictures.steps")


def test_trend_is_claimed_only_beyond_the_spread_of_seconds() -> None:
    """ "p99 goes from 20 to 14 ms" was noise."""

    def step(users: int, *p99: int) -> Any:
        found = _steps.Step(users, seconds=list(p99))
        found.latency.record(max(p99))
        return found

    few = step(80, 8000, 20_000, 9000, 9000)
    assert "no sure difference" in _steps.trend(few, step(400, *[14_000] * 4))
    assert "no sure difference" in _steps.trend(step(80, 9000), step(400, 20_000))
    assert "p99 goes up from" in _steps.trend(few, step(400, *[30_000] * 4))
    assert "p99 goes down from" in _steps.trend(few, step(400, *[1000] * 4))


@given(st.lists(st.text("abc1", min_size=1, max_size=9), max_size=30))
def test_lines_of_a_picture_are_as_few_as_they_can_be(words: list[str]) -> None:
    text = " ".join(words)
    lines = _drawing.even(text, 20)
    assert " ".join(lines) == text
    assert all(len(line) <= 20 for line in lines)
    assert len(lines) == len(textwrap.wrap(text, 20))


def test_number_stays_in_one_line_with_its_unit() -> None:
    assert _drawing.even("p99 is at most 12 ms", 18) == ["p99 is at", "most 12\xa0ms"]


def test_every_png_has_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *_, **__: said.append(" ".join(t.get_text() for t in self.texts)),
    )
    valid = _saved.load(saved(tmp_path))
    busy = _saved.load(saved(tmp_path, latency=30_000, own=25_000, when=1))
    for run in (valid, busy):
        for picture in _gallery.pictures(run):
            _drawing.png(picture, run.caption, tmp_path, _report.stamp(run))
    texts = [" ".join(each.split()) for each in said]
    assert len(texts) == 8
    assert all("VALID" in each and "INVALID" not in each for each in texts[:4])
    assert all("INVALID: the p50 in fanout/subscribers" in each for each in texts[4:])


def test_axis_ends_where_the_publishes_end(tmp_path: Path) -> None:
    """An axis went to 99.999 % with 400 publishes."""
    run = _saved.load(saved(tmp_path))
    run.record.histogram("fanout/subscribers").add(recorded(list(range(50_000))))
    (curves,) = [x for x in _gallery.pictures(run) if x.name == "fanout-percentiles"]
    curves.paint(figure := Figure())
    most = max(max(line.get_xdata()) for line in figure.axes[0].lines)
    assert most == run.record.published["fanout"] == 100


def variant(tmp_path: Path, scenario: str, name: str, **latency: int) -> Any:
    """Return a run of a scenario's variant, with these latencies by group."""
    run = _saved.load(saved(tmp_path / name, variant=name))
    record = _record.Record()
    for group, value in latency.items():
        histogram = record.histogram(f"{scenario}/{group.replace('_', ' ')}")
        histogram.add(recorded([value] * 200))
    record.published[scenario] = 200
    about = {**run.about, "name": f"20260101T000000000Z-{scenario}"}
    return replace(run, about=about, record=record)


def test_way_through_the_broker_is_drawn_beside_one_process(tmp_path: Path) -> None:
    runs = [
        variant(tmp_path, "replicas", _saved.ALONE, same_replica=1000),
        variant(
            *(tmp_path, "replicas", _saved.CALM),
            **{"same_replica": 2000, "other_replica": 3000},
        ),
        variant(tmp_path, "replicas", "one killed", same_replica=9000),
    ]
    ((picture, of),) = _gallery.together(runs)
    assert of == runs
    assert "1.00 ms in one process, and 3.00 ms by the broker" in picture.title
    assert _gallery.together(runs[1:]) == []


def test_healthy_readers_are_drawn_beside_the_same_crowd_alone(tmp_path: Path) -> None:
    runs = [
        variant(tmp_path, "slow_readers", _saved.CONTROL, healthy=1000),
        variant(tmp_path, "slow_readers", "disconnect", healthy=2000),
        variant(tmp_path, "slow_readers", "conflate", healthy=4000),
    ]
    picture = _gallery.together(runs)[0][0]
    assert "2.00 ms to 4.00 ms beside slow readers, and of 1.00 ms" in picture.title
    assert _report.stamp_of(runs) == _drawing.Stamp("VALID: all 3 runs", 0)
    lost = {**runs[1].summary, "exit_code": 1, "verdict": "FAILED", "reasons": ["x"]}
    runs[1] = replace(runs[1], summary=lost)
    assert _report.stamp_of(runs).text == (
        "1 of 3 runs are not VALID; slow_readers, disconnect is FAILED: x"
    )


@pytest.mark.parametrize(
    "labels",
    [
        ("p99", "p50", "p99 of single seconds", "the generator's own p99"),
        ("disconnect", "drop-newest", "drop-oldest", "conflate"),
        ("same replica (4,153)", "other replica (7,754)"),
        ("replica 1", "replica 2", "replica 3"),
        ("until everybody has it", "each delivery", "included: sent late"),
    ],
)
def test_legend_is_inside_its_picture(labels: tuple[str, ...]) -> None:
    def paint(figure: Figure) -> None:
        axes = _drawing.plain(figure.subplots(), "percentile (%)", "milliseconds")
        for label in labels:
            axes.plot([0, 1], [0, 1], label=label)
        axes.set_yticks([0, 1], ["0", "1,000"])
        _drawing.legend(axes, 4)

    figure = _drawing.blank(_drawing.Picture("a", "a", "a.", paint), 3, (0, 0, 1, 1))
    figure.canvas.draw()
    drawn = figure.axes[0].get_legend().get_window_extent()
    assert drawn.x0 >= 0 and drawn.x1 <= figure.bbox.x1


LOADS = """
import types
from loadtests import fanout, idle, slow_readers
from labserver.load.figures.record import Record
from labserver.load.run import conclusion
options = types.SimpleNamespace(publish_rate=20.0, payload_bytes=150)
for module in (fanout, slow_readers, idle):
    classes = [each for each in vars(module).values() if getattr(each, "scenario", "")]
    world = types.SimpleNamespace(user_classes=classes, parsed_options=options)
    print(conclusion.described(Record(wall=8), world))
"""


async def test_load_is_said_as_it_was_made() -> None:
    """Slow readers said 150 bytes for 32,768, and idle 20 messages/s for one."""
    assert (await printed(LOADS)).splitlines() == [
        "0 users, 20 messages/s a publisher, 150 byte payloads, 8 s",
        "0 users, 20 messages/s a publisher, 32,768 byte payloads, 8 s",
        "0 users, 1 messages/s a publisher, 150 byte payloads, 8 s",
    ]


def test_promise_of_the_heartbeat_is_a_line_in_the_picture(tmp_path: Path) -> None:
    run = _saved.load(saved(tmp_path))
    own = run.record.own("fanout")
    own.histogram("noticed after").add(recorded([2_000_000, 3_000_000]))
    own.measured("promised within", "s", 0, 4.0)
    run.summary["figures"]["fanout"] = own.told(0)
    picture = _special.silence(run)
    assert "promised are 4 s" in picture.title
    picture.paint(figure := Figure())
    assert [4.0, 4.0] in [list(line.get_ydata()) for line in figure.axes[0].lines]


READABLE = """
() => ({
  width: document.documentElement.scrollWidth,
  scrolling: [...document.querySelectorAll("*")].filter(
    (each) => each.scrollWidth > each.clientWidth + 1 &&
      getComputedStyle(each).overflowX !== "visible").length,
  words: Math.min(...[...document.querySelectorAll("svg text")].filter(
    (each) => each.textContent.trim().length > 2).map(
    (each) => each.getBoundingClientRect()).map(
    (each) => Math.min(each.width, each.height)).filter((size) => size > 0)),
})
"""


class TestOnAPhone:
    pytestmark = [pytest.mark.long, *needs_browser]

    async def test_page_is_read_without_scrolling_sideways(
        self, tmp_path: Path
    ) -> None:
        saved(tmp_path, variant="a server with a name that is not short")
        path = _report.write_report(_saved.load_all(tmp_path), tmp_path)
        async with launched() as browser:
            page = await browser.new_page(viewport={"width": 390, "height": 800})
            await page.goto(path.as_uri())
            await page.evaluate(
                "document.querySelectorAll('details').forEach(each => each.open = true)"
            )
            found = await page.evaluate(READABLE)
        assert found["width"] == 390
        assert found["scrolling"] == 0
        assert found["words"] > 8  # pixels
