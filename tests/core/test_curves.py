"""Curves at equal updates and at equal env steps, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import interpolate

from rl_agg import statistics

NAN = math.nan


def test_a_mean_curve_is_over_the_runs_that_have_returns():
    assert statistics.mean_curve([[1.0, NAN, 3.0], [3.0, NAN, NAN]]) == pytest.approx([2.0, NAN, 3.0], nan_ok=True)


def test_a_curve_interval_is_of_the_updates_that_all_runs_know():
    curves = np.array([[NAN, 1.0, 4.0], [0.0, 3.0, 6.0], [0.0, 5.0, 8.0]])
    low, high = statistics.curve_interval(curves, seed=2)
    assert np.isnan([low[0], high[0]]).all()
    assert (low[1], high[1]) == (1.0, 5.0)  # from three runs the interval is their range
    assert (low[2] - low[1], high[2] - high[1]) == pytest.approx((3.0, 3.0))  # whole runs are drawn
    assert np.isnan(statistics.curve_interval(curves[:1])).all()


def test_the_common_range_is_where_all_runs_have_returns():
    steps = [[100, 200, 300], [150, 300, 450, 600]]
    assert statistics.common_range(steps, [[1.0, 2.0, 3.0], [1.0] * 4]) == (150.0, 300.0)
    assert statistics.common_range(steps, [[1.0, 2.0, 3.0], [NAN, 1.0, 1.0, NAN]]) == (300.0, 300.0)
    assert np.isnan(statistics.common_range(steps, [[1.0, 2.0, 3.0], [NAN] * 4])).all()
    assert np.isnan(statistics.common_range([[1, 2], [3, 4]], [[1.0, 1.0], [1.0, 1.0]])).all()
    assert np.isnan(statistics.common_range([], [])).all()


def test_interpolation_skips_unknown_returns_and_does_not_extrapolate():
    values = statistics.interpolated([100, 200, 300, 400], [NAN, 1.0, NAN, 3.0], [150, 200, 250, 300, 400, 401])
    assert values == pytest.approx([NAN, 1.0, 1.5, 2.0, 3.0, NAN], nan_ok=True)
    assert np.isnan(statistics.interpolated([1, 2], [NAN, NAN], [1.5])).all()


def test_the_mean_over_a_range_by_hand():
    # 0 at 100, 4 at 300: from 150 (1) to 300 (4) the mean is 2.5; then flat to 500
    steps, returns = [100, 300, 400, 500], [0.0, 4.0, NAN, 4.0]
    assert statistics.mean_over_range(steps, returns, 150, 300) == pytest.approx(2.5, abs=1e-9)
    assert statistics.mean_over_range(steps, returns, 100, 500) == pytest.approx((2 * 200 + 4 * 200) / 400, abs=1e-9)
    assert statistics.mean_over_range(steps, returns, 200, 200) == pytest.approx(2.0, abs=1e-9)
    assert math.isnan(statistics.mean_over_range(steps, returns, 50, 300))
    assert math.isnan(statistics.mean_over_range(steps, returns, 300, 501))
    assert math.isnan(statistics.mean_over_range(steps, returns, NAN, NAN))


def test_the_mean_over_a_range_is_the_integral_of_scipys_spline():
    rng = np.random.default_rng(0)
    steps, returns = np.cumsum(rng.integers(1, 50, 30)), rng.normal(size=30)
    low, high = steps[3] + 0.5, steps[-4] - 0.25
    spline = interpolate.make_interp_spline(steps, returns, k=1)
    expected = spline.integrate(low, high) / (high - low)
    assert statistics.mean_over_range(steps, returns, low, high) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(2, 5))
def test_equal_steps_do_not_care_into_how_many_updates_they_are_cut(returns, parts):
    """A run on straight lines, reported at every update or several times in between."""
    steps = 10.0 * np.arange(len(returns))
    finer = np.linspace(0, steps[-1], parts * (len(returns) - 1) + 1)
    coarse = statistics.mean_over_range(steps, returns, 0, steps[-1])
    fine = statistics.mean_over_range(finer, np.interp(finer, steps, returns), 0, steps[-1])
    assert fine == pytest.approx(coarse, abs=1e-9)
