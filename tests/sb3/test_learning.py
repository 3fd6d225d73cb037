"""What the committed studies show still holds: their cells, run again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rl_agg.study.loading import load_study
from rl_agg.study.sb3 import Sb3Runner

pytestmark = pytest.mark.slow

STUDIES = Path(__file__).parents[2] / "examples" / "studies"


def returns_of(study: str, environment: str, system: str, seed: int) -> np.ndarray:
    """Mean return of each update."""
    cells = load_study(STUDIES / study).cells
    (cell,) = [c for c in cells if (c.environment_name, c.system_name, c.seed) == (environment, system, seed)]
    return np.array([update.mean_return for update in Sb3Runner().run(cell, lambda update, fraction: None)])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("system", ["Krum", "Median", "Trimmed mean"])
def test_robust_combiners_bear_two_attackers(system: str, seed: int) -> None:
    assert returns_of("attackers.yaml", "CartPole-v1", system, seed).max() >= 400


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("system", ["Baseline-Avg", "Baseline-Sum"])
def test_mean_and_sum_collapse_under_two_attackers(system: str, seed: int) -> None:
    assert returns_of("attackers.yaml", "CartPole-v1", system, seed)[-5:].max() < 50
