"""Which agents a minibatch holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rl_agg import Combiner, Signals
from rllib_agg.aggregation.agents import agent_of
from tests.rllib.ppo_configs import tiny_ppo

AGENTS = 5


def update(spaces: dict[str, Any], sample: Callable[[], list[Any]], shuffle: bool, **settings: Any) -> None:
    """One epoch in minibatches of an agent's size, over episodes in the agents' order."""
    episodes = sorted(sample(), key=agent_of)
    learner = tiny_ppo(**settings).build_learner(spaces=spaces)
    learner.update(episodes=episodes, timesteps={}, num_epochs=1, minibatch_size=40, shuffle_batch_per_epoch=shuffle)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_rule_sees_all_agents_from_the_first_minibatch_on(
    shuffle: bool, spaces: dict[str, Any], sample: Callable[[], list[Any]]
) -> None:
    seen: list[int] = []

    def rule(signals: Signals) -> torch.Tensor:
        assert signals.num_samples is not None
        seen.append(len(signals.num_samples))
        return torch.ones_like(signals.num_samples)

    update(spaces, sample, shuffle, aggregation=rule)
    assert seen[0] == (AGENTS if shuffle else 1)
    assert min(seen) >= AGENTS - 1 or not shuffle


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_combiner_does_too(shuffle: bool, spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    seen: list[int] = []

    class Mean(Combiner):
        def merge(self, gradients: torch.Tensor, *, num_masked: int, step: int) -> torch.Tensor:
            seen.append(len(gradients))
            return gradients.mean(0)

    update(spaces, sample, shuffle, aggregation=Mean())
    assert seen[0] == (AGENTS if shuffle else 1)
