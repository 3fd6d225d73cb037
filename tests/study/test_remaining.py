"""The time left, against numbers worked by hand."""

from __future__ import annotations

import pytest
from small_studies import small

from rl_agg.study.run.remaining import Remaining


def test_nothing_is_known_before_a_cell_trains() -> None:
    assert Remaining(small().cells).seconds(100.0) is None


def test_running_cells_give_the_time_until_one_is_over() -> None:
    cells = small(seeds=2).cells  # a and b, two seeds each
    a, b = cells[:2]
    left = Remaining(cells)
    left.updated(a, 0.25, 10.0, now=600.0)  # 600 s of starting Ray do not count: it takes 40 s
    # a: 30 left, and the other three as long as it: 120
    assert left.seconds(600.0) == 150.0
    left.updated(b, 0.5, 10.0, now=605.0)  # takes 20 s
    # a: 30 and 40, b: 10 and 20, by two at once
    assert left.seconds(605.0) == 50.0


def test_then_the_speed_is_what_was_measured() -> None:
    cells = small(seeds=2).cells
    a, b, a1, b1 = cells
    left = Remaining(cells)
    left.updated(a, 0.25, 10.0, now=0.0)
    left.updated(b, 1.0, 20.0, now=20.0)
    left.over(b)
    left.updated(a, 0.75, 30.0, now=20.0)
    # 40 of training since the first report, in 25 s; left are 10 and 40 of a, 20 of b
    assert left.seconds(25.0) == pytest.approx(70 / (40 / 25))
    # A gap between cells makes it slower: 40 in 40 s
    assert left.seconds(40.0) == pytest.approx(70)
    left.over(a)
    left.over(a1)
    assert left.seconds(40.0) == pytest.approx(20)
    left.over(b1)
    assert left.seconds(40.0) == 0


def test_the_longest_cell_is_not_divided_among_workers() -> None:
    cells = small().cells
    left = Remaining(cells)
    left.updated(cells[0], 0.5, 1.0, now=0.0)
    left.updated(cells[1], 0.5, 100.0, now=0.0)
    assert left.seconds(0.0) == 100.0


def test_a_cell_that_failed_counts_no_longer() -> None:
    cells = small().cells
    left = Remaining(cells)
    left.updated(cells[0], 0.5, 8.0, now=0.0)
    assert left.seconds(0.0) == 8 + 16
    left.over(cells[1])
    assert left.seconds(0.0) == 8
