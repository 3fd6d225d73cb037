"""Every combiner compared with another way to compute it: numpy, scipy or brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from rl_agg import combine
from rl_agg.combiners import MixTailor
from tests.core.gradients import normal


@pytest.mark.parametrize("num_agents", [1, 2, 3, 4, 7, 8, 16, 17, 33, 64])
def test_median(num_agents: int) -> None:
    gradients = normal(num_agents, 101)
    np.testing.assert_allclose(combine("median", gradients), np.median(gradients, axis=0), rtol=1e-6)


@pytest.mark.parametrize("num_agents", [3, 4, 5, 8, 15, 16, 17, 64])
def test_trimmed_mean(num_agents: int) -> None:
    gradients = normal(num_agents, 101)
    for trim in {0, 1, (num_agents - 1) // 2}:
        expected = scipy.stats.trim_mean(gradients.numpy(), (trim + 0.5) / num_agents, axis=0)
        np.testing.assert_allclose(
            combine("trimmed_mean", gradients, num_byzantine=trim), expected, rtol=1e-5, atol=1e-6, err_msg=str(trim)
        )


@pytest.mark.parametrize("num_agents", range(1, 14))
def test_every_order_of_the_agents_is_sorted(num_agents: int) -> None:
    """Comparisons that sort all sequences of zeros and ones sort everything (Knuth, theorem 5.3.4Z)."""
    gradients = torch.tensor(list(itertools.product([0.0, 1.0], repeat=num_agents))).T
    ones = gradients.sum(0)
    for trim in range((num_agents + 1) // 2):
        kept = num_agents - 2 * trim
        expected = (ones - trim).clamp(0, kept) / kept
        torch.testing.assert_close(combine("trimmed_mean", gradients, num_byzantine=trim), expected)


def krum_by_definition(gradients: np.ndarray, num_byzantine: int, num_selected: int) -> np.ndarray:
    """Blanchard et al. (2017), section 4, one agent after the other."""
    num_agents, scores = len(gradients), []
    for agent in range(num_agents):
        others = [other for other in range(num_agents) if other != agent]
        squared = sorted(sum((gradients[agent] - gradients[other]) ** 2) for other in others)
        scores.append(sum(squared[: num_agents - num_byzantine - 2]))
    return gradients[np.argsort(scores)[:num_selected]].mean(0)


@pytest.mark.parametrize(("num_agents", "num_byzantine"), [(3, 0), (5, 1), (8, 2), (9, 3), (20, 5)])
@pytest.mark.parametrize("num_selected", [1, 3])
def test_krum(num_agents: int, num_byzantine: int, num_selected: int) -> None:
    for seed in range(10):
        gradients = normal(num_agents, 6, seed=seed).double()
        expected = krum_by_definition(gradients.numpy(), num_byzantine, num_selected)
        found = combine("krum", gradients, num_byzantine=num_byzantine, num_selected=num_selected)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_krum_sees_small_differences_between_large_gradients() -> None:
    """Relative to zero their squares differ by less than float32 resolves."""
    gradients = 1000 + 0.01 * normal(9, 50)
    expected = krum_by_definition(gradients.double().numpy(), 2, 1)
    np.testing.assert_allclose(combine("krum", gradients, num_byzantine=2), expected, rtol=1e-7)


def sum_of_distances(point: np.ndarray, gradients: np.ndarray) -> float:
    return float(np.linalg.norm(gradients - point, axis=1).sum())


@pytest.mark.parametrize(("num_agents", "num_parameters"), [(3, 2), (4, 3), (8, 10), (15, 4)])
def test_geometric_median(num_agents: int, num_parameters: int) -> None:
    for seed in range(5):
        gradients = normal(num_agents, num_parameters, seed=seed).double()
        gradients[0] *= 20
        start = np.median(gradients, axis=0)
        smooth = scipy.optimize.minimize(sum_of_distances, start, gradients.numpy(), method="BFGS", options={"gtol": 1e-9})
        kinks = min(sum_of_distances(gradient, gradients.numpy()) for gradient in gradients.numpy())  # BFGS may miss them
        least = min(smooth.fun, kinks)
        found = combine("geometric_median", gradients, num_iterations=500, smoothing=1e-9).numpy()
        assert sum_of_distances(found, gradients.numpy()) <= least * (1 + 1e-6)
        soon = combine("geometric_median", gradients).numpy()
        assert sum_of_distances(soon, gradients.numpy()) <= least * 1.001


def test_mixtailor_draws_by_seed_and_step() -> None:
    gradients, members = normal(9, 5), ("median", "krum", "geometric_median")
    outcomes = [combine(name, gradients) for name in members]

    def drawn(seed: int, step: int) -> int:
        combined = MixTailor(combiners=members, seed=seed)(gradients, step=step)
        return [torch.equal(combined, outcome) for outcome in outcomes].index(True)

    steps = [drawn(0, step) for step in range(60)]
    assert set(steps) == {0, 1, 2}
    assert steps == [drawn(0, step) for step in range(60)]
    assert steps != [drawn(1, step) for step in range(60)]


def test_mixtailor_takes_settings_for_each() -> None:
    gradients = normal(9, 5)
    mix = MixTailor(combiners={"krum": {"num_byzantine": 3, "num_selected": 2}})
    assert torch.equal(mix(gradients), combine("krum", gradients, num_byzantine=3, num_selected=2))
    assert torch.equal(MixTailor(combiners={"median": None})(gradients), combine("median", gradients))
