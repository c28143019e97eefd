"""Flame graphs of one picture have one scale of time."""

from __future__ import annotations

from collections import Counter

from matplotlib.patches import Rectangle

from labserver.notebook.experiments.flames import Profile, drawn, profiled


def spins() -> None:
    sum(range(20_000))


def widest(axes) -> float:
    return max(each.get_width() for each in axes.patches if isinstance(each, Rectangle))


LONG = Profile("long", 1000.0, Counter({("f", "g"): 75, ("f",): 25}))
SHORT = Profile("short", 100.0, Counter({("f",): 10}))


def test_width_of_a_box_is_the_time_of_its_function() -> None:
    assert LONG.widths() == {("f",): 1000.0, ("f", "g"): 750.0}


def test_short_graph_is_drawn_on_the_scale_of_the_long_one_and_then_magnified() -> None:
    picture = drawn([LONG, SHORT], "Where time goes")
    long, short, magnified = picture.figure.axes
    assert long.get_xlim() == short.get_xlim() == (0, 1000)
    assert (widest(long), widest(short)) == (1000, 100)
    assert magnified.get_xlim() == (0, 100)
    titles = [each.get_title(loc="left") for each in picture.figure.axes]
    assert titles == [
        "long: 1,000 µs a message",
        "short: 100 µs a message",
        "short, magnified 10 times",
    ]
    assert repr(picture) == (
        "Where time goes. long: 1000 µs a message; f 100%, g 75%. "
        "short: 100 µs a message; f 100%."
    )


def test_graphs_of_nearly_the_same_time_need_no_magnifying() -> None:
    picture = drawn([LONG, Profile("other", 900.0, LONG.stacks)], "Where time goes")
    assert len(picture.figure.axes) == 2


def test_function_is_sampled_with_itself_at_the_root() -> None:
    profile = profiled("spinning", spins, 0.2)
    assert profile.each > 0
    assert {stack[0] for stack in profile.stacks} == {"spins"}
