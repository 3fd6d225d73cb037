"""Combiners with faulty agents: how far these can move the outcome."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rl_agg import combine
from rl_agg.combiners import make_combiner
from tests.core.gradients import NAMES, anything, normal


@st.composite
def attacked(draw: Any) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Honest gradients, faulty ones of any size, and the largest f that krum allows for so many."""
    num_faulty = draw(st.integers(1, 4))
    num_honest = draw(st.integers(num_faulty + 3, num_faulty + 8))
    num_parameters = draw(st.integers(1, 4))
    honest = draw(arrays(np.float32, (num_honest, num_parameters), elements=st.floats(-10, 10, width=32)))
    faulty = draw(arrays(np.float32, (num_faulty, num_parameters), elements=anything))
    return torch.from_numpy(honest), torch.from_numpy(faulty), num_faulty


def settings_of(name: str, num_byzantine: int) -> dict[str, Any]:
    if name in ("krum", "trimmed_mean"):
        return {"num_byzantine": num_byzantine}
    if name == "mixtailor":
        own = {other: settings_of(other, num_byzantine) for other in NAMES if other != "mixtailor"}
        return {"combiners": own}
    return {}


def reach(name: str, num_agents: int, num_byzantine: int) -> float:
    """How far the outcome may be from the honest gradients, in units of the largest distance between two of them."""
    if name in ("median", "trimmed_mean"):
        return 0.0
    krum = float(num_agents - num_byzantine - 2) ** 0.5  # an honest one has at most this score
    share = num_byzantine / num_agents
    median = 2 * (1 - share) / (1 - 2 * share)  # Minsker (2015), lemma 2.1
    return {"krum": krum, "geometric_median": median, "mixtailor": max(krum, median)}[name]


@pytest.mark.parametrize("name", NAMES)
@given(case=attacked(), step=st.integers(0, 9), data=st.data())
def test_whatever_a_few_send_the_outcome_stays_near_the_honest(
    name: str, case: tuple[torch.Tensor, torch.Tensor, int], step: int, data: st.DataObject
) -> None:
    honest, faulty, num_faulty = case
    gradients = torch.cat([honest, faulty])
    gradients = gradients[torch.tensor(data.draw(st.permutations(range(len(gradients)))))]
    combined = make_combiner(name, settings_of(name, num_faulty))(gradients, step=step)
    diameter = torch.cdist(honest.double(), honest.double()).max()
    below = honest.min(0).values - combined
    above = combined - honest.max(0).values
    outside = torch.maximum(below, above).clamp(min=0).double().norm()
    assert outside <= reach(name, len(gradients), num_faulty) * diameter * 1.01 + 1e-4


@pytest.mark.parametrize("size", [1e3, 1e8, 1e15, 1e22, 1e30])
def test_the_geometric_median_does_not_care_how_far_away_the_faulty_are(size: float) -> None:
    """Only their direction counts: beyond some distance the outcome no longer changes."""
    honest, faulty = normal(7, 20), torch.nn.functional.normalize(normal(3, 20, seed=1), dim=1)
    near = combine("geometric_median", torch.cat([honest, 1e3 * faulty]), num_iterations=200)
    far = combine("geometric_median", torch.cat([honest, size * faulty]), num_iterations=200)
    assert (far - near).norm() <= 0.01 * honest.norm(dim=1).mean()
    early = combine("geometric_median", torch.cat([honest, size * faulty]))
    assert (early - near).norm() <= 0.1 * honest.norm(dim=1).mean()


@pytest.mark.parametrize("size", [1.0, 1e30])
def test_faulty_agents_that_agree_with_each_other_are_still_too_few(size: float) -> None:
    honest = normal(8, 10)
    for name in ("krum", "geometric_median", "median", "trimmed_mean"):
        faulty = torch.full((3, 10), 50.0 * size)
        combined = combine(name, torch.cat([faulty, honest]), **settings_of(name, 3))
        assert combined.norm() <= 2 * honest.norm(dim=1).max(), name


@pytest.mark.parametrize("num_agents", [5, 64])
def test_a_majority_that_agrees_decides(num_agents: int) -> None:
    """Most gradients are the same: the geometric median is theirs, the others send what they like."""
    gradients = torch.ones(num_agents, 3)
    gradients[: (num_agents - 1) // 2] = normal((num_agents - 1) // 2, 3) * 1e30
    torch.testing.assert_close(combine("geometric_median", gradients), torch.ones(3))
