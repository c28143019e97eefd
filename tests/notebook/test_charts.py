"""Pictures show what was measured as points, and what was fitted as lines."""

from __future__ import annotations

import pytest

from labserver.notebook.charts import fitted, line_through
from labserver.notebook.experiments.fanout import Costs

SIZES = [1, 50, 100]
ALL, KERNEL = [104.0, 300.0, 500.0], [3.0, 150.0, 300.0]  # 100 + 4 N, and 3 N


def test_line_through_points_has_their_start_and_slope() -> None:
    assert line_through(SIZES, ALL) == pytest.approx((100, 4))


def test_fit_is_a_bare_line_and_points_are_not_connected() -> None:
    picture = fitted({"all": (SIZES, ALL)}, title="Costs", x="members", y="µs")
    (axes,) = picture.figure.axes
    line, points = axes.lines
    assert (line.get_marker(), len(line.get_xdata())) == ("None", 2)
    assert (points.get_marker(), points.get_linestyle()) == ("o", "None")
    assert list(points.get_ydata()) == ALL
    assert repr(picture) == "Costs (µs over members): all: 100 + 4.0 N."


def test_share_of_the_kernel_is_that_of_the_slope() -> None:
    cost = Costs(SIZES, ALL, KERNEL)
    assert cost.share == pytest.approx(0.75)
    assert repr(cost).startswith("T = 100 µs + 4.0 µs · N; about 80% of the slope")
