"""An agent that sends NaN or infinity is masked; if nothing finite is left, the step is skipped on every learner alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from torch import Tensor

from rllib_agg.aggregation.advantages import RAW_ADVANTAGES, finish_advantages
from rllib_agg.aggregation.agents import agent_of
from rllib_agg.aggregation.learner_group import AggLearnerGroup
from rllib_agg.ppo import learner as ppo_learner
from tests.rllib.ppo_configs import tiny_ppo

cloudpickle.register_pickle_by_value(sys.modules[__name__])

MODULE = "default_policy"
BAD = 2


@pytest.fixture(scope="module", params=[0, pytest.param(2, marks=pytest.mark.remote)], ids="learners{}".format)
def group(request: pytest.FixtureRequest, spaces: dict[str, Any]) -> Iterator[AggLearnerGroup]:
    config = tiny_ppo(aggregation="r_weighted", advantage_norm="agent").learners(
        num_learners=request.param, shard_by_agent=True
    )
    config.validate()
    group = config.build_learner_group(spaces=spaces)
    yield group
    group.shutdown()


@pytest.fixture
def fresh(group: AggLearnerGroup) -> AggLearnerGroup:
    """The same start for each update: weights, optimizer, returns, KL coefficient."""
    if not hasattr(group, "start"):
        group.start = group.get_state()
    group.set_state(group.start)
    return group


def nan_rewards(chunk: Any) -> None:
    chunk.rewards.data[-3] = np.nan


def infinite_observations(chunk: Any) -> None:
    chunk.observations.data[2, 1] = np.inf


def nan_logits(chunk: Any) -> None:
    """Finite inputs, but a KL penalty, and so a loss, that is NaN."""
    chunk.extra_model_outputs["action_dist_inputs"].data[4, 0] = np.nan


def overflowing_ratio(chunk: Any) -> None:
    """A probability ratio of infinity: the clipped surrogate is finite where the advantage is positive, its gradient NaN."""
    chunk.extra_model_outputs["action_logp"].data[0] = -200.0
    chunk.rewards.data[0] = 50.0


FAULTS = (nan_rewards, infinite_observations, nan_logits, overflowing_ratio)


def learned(group: AggLearnerGroup, episodes: list[Any]) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """Each learner's weights after an update of two epochs, and what the first of them logged."""
    results = group.update(episodes=episodes, num_epochs=2, minibatch_size=None, timesteps={})
    read = lambda learner: dict(learner.module[MODULE].unwrapped().named_parameters())  # noqa: E731
    parameters = [result.get() for result in group.foreach_learner(read)]
    logged = {name: float(stats.peek()) for name, stats in results[0][MODULE]["agg"].items()}
    return parameters, logged


@pytest.mark.parametrize("fault", FAULTS)
def test_one_corrupt_agent_is_masked_and_the_others_learn_as_without_it(
    fault: Callable[[Any], None], fresh: AggLearnerGroup, sample: Callable[[], list[Any]]
) -> None:
    without, _ = learned(fresh, [episode for episode in sample() if agent_of(episode) != BAD])
    fresh.set_state(fresh.start)
    episodes = sample()
    fault(max((episode for episode in episodes if agent_of(episode) == BAD), key=len))
    parameters, logged = learned(fresh, episodes)
    assert logged["masked_agents"] == 1
    assert logged["skipped_updates"] == 0
    for learner in parameters:
        for name, expected in without[0].items():
            torch.testing.assert_close(learner[name], expected, rtol=1e-4, atol=1e-5)


def test_nothing_finite_left_skips_the_step(fresh: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    def state(learner: Any) -> tuple[Any, Any]:
        return learner.module.get_state(), learner._get_optimizer_state()

    learned(fresh, sample())  # so that the optimizer has momentum, which a step with zero gradients would follow
    before = [result.get() for result in fresh.foreach_learner(state)]
    episodes = sample()
    for episode in episodes:
        nan_rewards(episode) if len(episode) > 3 else episode.rewards.data.fill(np.nan)
    _, logged = learned(fresh, episodes)
    after = [result.get() for result in fresh.foreach_learner(state)]
    np.testing.assert_equal(after, before)
    assert logged["skipped_updates"] == 2
    assert logged["masked_agents"] == 5


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_masked_agent_is_back_with_its_next_finite_return(
    fresh: AggLearnerGroup, sample: Callable[[], list[Any]], infinite: float
) -> None:
    episodes = sample()
    for episode in episodes:
        if agent_of(episode) == BAD:
            episode.extra_model_outputs["agg_return"].data[-1] = infinite
    _, logged = learned(fresh, episodes)
    assert logged["masked_agents"] == 1
    _, logged = learned(fresh, sample())
    assert logged["masked_agents"] == 0


def test_gradient_too_large_for_its_norm_masks_its_agent(spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    """Loss and gradient are finite; clipping by the norm would bring all agents' to zero."""
    learner = tiny_ppo(advantage_norm="none", use_kl_loss=False).build_learner(spaces=spaces)
    episodes = sample()
    max((episode for episode in episodes if agent_of(episode) == BAD), key=len).rewards.data[-3] = 1e30
    logged = learner.update(episodes=episodes, timesteps={})[MODULE]["agg"]
    assert logged["masked_agents"].peek() == 1
    assert logged["skipped_updates"].peek() == 0


def test_a_corrupt_agent_does_not_touch_advantages_that_are_not_standardised(
    spaces: dict[str, Any], sample: Callable[[], list[Any]]
) -> None:
    learner = tiny_ppo(advantage_norm="none", use_kl_loss=False).build_learner(spaces=spaces)
    start = learner.get_state()

    def trained(episodes: list[Any]) -> dict[str, Tensor]:
        learner.set_state(start)
        learner.update(episodes=episodes, num_epochs=4, timesteps={})  # Adam's first step knows signs alone
        return {name: p.detach().clone() for name, p in learner.module[MODULE].named_parameters()}

    without = trained([episode for episode in sample() if agent_of(episode) != BAD])
    episodes = sample()
    for episode in episodes:
        if agent_of(episode) == BAD:
            episode.rewards.data[:] = np.nan
    torch.testing.assert_close(trained(episodes), without, rtol=1e-4, atol=1e-6)


def test_a_corrupt_agent_does_not_touch_the_standardisation(
    monkeypatch: pytest.MonkeyPatch, spaces: dict[str, Any], sample: Callable[[], list[Any]]
) -> None:
    batches: list[dict[str, Any]] = []

    def watched(data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        raw = data[RAW_ADVANTAGES].numpy()
        finish_advantages(data, *args, **kwargs)
        batches.append({"raw": raw, **{name: column.numpy() for name, column in data.items() if torch.is_tensor(column)}})

    monkeypatch.setattr(ppo_learner, "finish_advantages", watched)
    episodes = sample()
    for episode in episodes:
        if agent_of(episode) == BAD:
            episode.rewards.data[:] = np.nan
    learner = tiny_ppo(advantage_norm="stock", use_kl_loss=False).build_learner(spaces=spaces)
    learner.update(episodes=episodes, timesteps={})
    (batch,) = batches
    finite = batch["loss_mask"]
    assert set(batch["agg_agent"][finite]) == {0, 1, 3, 4}
    kept = batch["raw"][finite]
    np.testing.assert_allclose(batch["advantages"][finite], (kept - kept.mean()) / kept.std(), rtol=1e-5, atol=1e-5)
