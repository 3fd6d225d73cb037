"""How much of the returns' variance the critic explains."""

from __future__ import annotations

import math

import numpy as np
import torch

from rl_agg.explained_variance import explained_share


def share(returns: list[float], errors: list[float]) -> float:
    rows = [torch.tensor([values], dtype=torch.float64) for values in (errors, returns)]
    squares = [(row - row.mean(1, keepdim=True)).square().sum(1) for row in rows]
    return float(explained_share(*squares, rows[1].square().sum(1)))


def test_by_hand() -> None:
    """Returns 0, 4: variance 4. Errors of 1 and -1: variance 1. An offset of the critic's does not count."""
    assert share([0.0, 4.0], [1.0, -1.0]) == 0.75
    assert share([0.0, 4.0], [11.0, 9.0]) == 0.75
    assert share([0.0, 4.0], [0.0, 0.0]) == 1
    assert share([0.0, 4.0], [-9.0, 9.0]) == 0  # worse than their mean


def test_returns_that_do_not_vary_say_nothing() -> None:
    assert math.isnan(share([3.0, 3.0, 3.0], [1.0, -1.0, 0.0]))
    assert math.isnan(share([0.0, 0.0], [0.0, 0.0]))
    rounded = np.full(100, 1e6, np.float32) + np.float32(0.0625) * (np.arange(100) % 2)  # the last bit of a float32
    assert math.isnan(share(rounded.tolist(), [0.1, -0.1] * 50))
    assert math.isnan(share([math.nan, 1.0], [0.0, 0.0]))


def test_of_any_size() -> None:
    for size in (1e-30, 1e12, 1e38):
        assert share([0.0, 4.0 * size], [size, -size]) == 0.75
