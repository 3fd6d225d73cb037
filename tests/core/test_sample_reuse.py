"""Samples used again by their likelihood ratio: against densities of scipy's, and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from rl_agg.evolution import EvolutionStrategy
from rl_agg.evolution.settings import EvolutionSettings

SIGMA = 0.3
PLAIN = {"noise_stdev": SIGMA, "lr": 0.02, "optimizer": "sgd", "l2_coeff": 0.0}


def returns_of(candidates: np.ndarray) -> np.ndarray:
    return np.sin(3 * candidates).sum(axis=1) + candidates[:, 0] ** 2


def test_gradient_is_that_of_densities() -> None:
    settings = {**PLAIN, "population": 12, "antithetic": False, "reuse": 2, "reuse_threshold": 0.05}
    strategy = EvolutionStrategy(np.linspace(-1, 1, 4), run=2, fitness="centered", **settings)
    past: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(5):
        theta, candidates = strategy.theta.astype(np.float64), strategy.ask().astype(np.float64)
        returns = returns_of(candidates).astype(np.float32).astype(np.float64)
        now, used = multivariate_normal(theta, SIGMA**2 * np.eye(4)), []
        for centre, tried, earned in past[-2:]:
            ratios = now.pdf(tried) / multivariate_normal(centre, SIGMA**2 * np.eye(4)).pdf(tried)
            shares = ratios / ratios.sum()
            if 1 / (shares**2).sum() >= 0.05 * 12:
                used.append((shares, tried, earned))
        mean = np.mean([*returns, *(value for *_, earned in used for value in earned)])
        gradient = ((returns - mean)[:, None] * (candidates - theta)).sum(0) / SIGMA**2
        total = 12.0
        for shares, tried, earned in used:
            number = 1 / (shares**2).sum()
            gradient += number * ((shares * (earned - mean))[:, None] * (tried - theta)).sum(0) / SIGMA**2
            total += number
        strategy.tell(returns)
        np.testing.assert_allclose(strategy.theta - theta, 0.02 * gradient / total, rtol=1e-3, atol=1e-5)
        assert strategy.measures["reused_updates"] == len(used) == min(2, len(past))
        assert strategy.measures["effective_samples"] == pytest.approx(total, rel=1e-4)
        past.append((theta, candidates, returns))


def test_earlier_samples_estimate_the_present_gradient() -> None:
    """Of -|x|^2 the smoothed gradient is -2 theta, and 4000 samples of where theta was give it."""
    settings = {**PLAIN, "population": 4000, "lr": 0.1, "reuse": 1, "reuse_threshold": 0.1, "fitness": "centered"}
    strategy = EvolutionStrategy(np.array([1.0, -0.5, 0.25]), run=1, **settings)
    strategy.tell(-np.square(strategy.ask()).sum(axis=1))
    theta = strategy.theta.astype(np.float64)
    assert np.linalg.norm(theta - [1.0, -0.5, 0.25]) > 0.15  # of a standard deviation of 0.3
    strategy.ask()
    strategy.tell(np.zeros(4000) - np.square(theta).sum())  # the present samples say nothing
    number = strategy.measures["effective_samples"] - 4000
    assert 400 < number < 4000
    estimate = (strategy.theta - theta) / 0.1 * (4000 + number) / number
    np.testing.assert_allclose(estimate, -2 * theta, atol=0.15)


def test_updates_far_away_are_left_out() -> None:
    near, far = (
        EvolutionStrategy(np.zeros(50), run=0, **{**PLAIN, "lr": lr, "population": 20, "reuse": 3, "optimizer": "adam"})
        for lr in (1e-4, 1.0)
    )
    for strategy in (near, far):
        for _ in range(5):
            strategy.tell(returns_of(strategy.ask()))
    assert (near.measures["reused_updates"], far.measures["reused_updates"]) == (3, 0)
    assert far.measures["effective_samples"] == 20
    plain = EvolutionStrategy(np.zeros(50), run=0, **{**PLAIN, "lr": 1.0, "population": 20, "optimizer": "adam"})
    for _ in range(5):
        plain.tell(returns_of(plain.ask()))
    np.testing.assert_array_equal(plain.theta, far.theta)
    assert "reused_updates" not in plain.measures


@pytest.mark.parametrize("gate", [{}, {"communication": "deviation", "expected_messages": 4, "antithetic": False}])
def test_restored_state_is_exact(gate: dict[str, Any]) -> None:
    settings = {**PLAIN, "population": 10, "reuse": 2, **gate}

    def made(run: int = 4) -> EvolutionStrategy:
        return EvolutionStrategy(np.linspace(-1, 1, 5), run=run, **settings)

    def go(strategy: EvolutionStrategy, updates: int) -> None:
        for _ in range(updates):
            candidates = strategy.ask()
            returns = returns_of(candidates)
            returns[3] = np.nan  # an agent without a return never counts
            strategy.tell(returns)

    whole, first, restored = made(), made(), made(8)
    go(whole, 7)
    go(first, 4)
    restored.load_state_dict(first.state_dict())
    go(restored, 3)
    np.testing.assert_equal(restored.state_dict(), whole.state_dict())
    assert whole.measures["reused_updates"] == 2


def test_samples_of_other_noise_are_forgotten() -> None:
    strategy = EvolutionStrategy(np.zeros(5), run=0, **{**PLAIN, "population": 10, "reuse": 2})
    strategy.tell(returns_of(strategy.ask()))
    for change in ({"noise_stdev": 0.1}, {"antithetic": False}):
        other = EvolutionStrategy(np.zeros(5), **{**PLAIN, "population": 10, "reuse": 2, **change})
        other.load_state_dict(strategy.state_dict())
        other.tell(returns_of(other.ask()))
        assert other.measures["reused_updates"] == 0
    more = EvolutionStrategy(np.zeros(5), **{**PLAIN, "population": 6, "reuse": 2})
    more.load_state_dict(strategy.state_dict())  # of ten agents, and six from now on
    more.tell(returns_of(more.ask()))
    assert more.measures["reused_updates"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reuse": -1}, "reuse must be an integer >= 0, got -1"),
        ({"reuse": 1.5}, "reuse must be an integer >= 0, got 1.5"),
        ({"reuse": 1, "reuse_threshold": 0}, "reuse_threshold must be a finite number > 0 and <= 1, got 0"),
        ({"reuse_threshold": 0.5}, "reuse_threshold=0.5 has no effect without reuse"),
        ({"reuse": 1, "novelty": "ns"}, "reuse=1 uses returns again, but with novelty='ns'"),
        ({"reuse": 1, "broadcast": "seeds"}, "reuse=1 steps by samples of earlier updates, which broadcast='seeds' does not"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvolutionSettings(**settings)


def test_normalised_observations_do_not_go_with_it() -> None:
    with pytest.raises(ValueError, match="normalised observations change their scale in between"):
        EvolutionStrategy(np.zeros(3), observation_size=2, reuse=1)
