"""Whole agents per learner, no learner without data, as many minibatches for each."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ray import cloudpickle
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from rllib_agg.aggregation.agents import RETURN, agent_of
from rllib_agg.aggregation.learner_group import AgentTrainingData, AggLearnerGroup
from tests.rllib.ppo_configs import tiny_ppo

cloudpickle.register_pickle_by_value(sys.modules[__name__])

MODULE = "default_policy"


def shards(
    episodes: list[Any], num_shards: int, by_agent: bool = True, **update: Any
) -> list[tuple[list[Any], dict[str, int]]]:
    settings = {"num_epochs": 2, "minibatch_size": 32, **update}
    data = AgentTrainingData(episodes, by_agent=by_agent).shard(num_shards, 0, **settings)
    return [(part.episodes, extra) for part, extra in data]


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_no_agent_is_in_two_shards(num_shards: int, sample: Callable[[], list[Any]]) -> None:
    parts = [{agent_of(episode) for episode in episodes} for episodes, _ in shards(sample(), num_shards)]
    assert sum(map(len, parts)) == 5
    assert set().union(*parts) == set(range(5))
    assert all(parts)


@pytest.mark.parametrize("by_agent", [True, False])
@pytest.mark.parametrize("minibatch_size", [None, 7, 32, 10_000])
def test_every_sample_is_there_and_learners_go_in_step(
    by_agent: bool, minibatch_size: int | None, sample: Callable[[], list[Any]]
) -> None:
    parts = shards(sample(), 3, by_agent, minibatch_size=minibatch_size)
    assert sum(len(episode) for episodes, _ in parts for episode in episodes) == sum(map(len, sample()))
    minibatches = {extra["num_total_minibatches"] for _, extra in parts}
    largest = max(sum(map(len, episodes)) for episodes, _ in parts)
    assert minibatches == {2 if minibatch_size is None else max(1, 2 * largest // minibatch_size)}


def test_agents_that_died_do_not_leave_a_learner_empty(sample: Callable[[], list[Any]]) -> None:
    last = [episode for episode in sample() if agent_of(episode) == 4]
    assert all(sum(map(len, episodes)) for episodes, _ in shards(last, 3))


def test_too_few_samples_are_an_error_and_not_a_hang(sample: Callable[[], list[Any]]) -> None:
    with pytest.raises(RuntimeError, match="3 learners cannot share 1 episodes"):
        shards([sample()[0][:2]], 3)


@pytest.fixture(scope="module")
def group(spaces: dict[str, Any]) -> Iterator[AggLearnerGroup]:
    config = tiny_ppo().learners(num_learners=2, shard_by_agent=True)
    config.validate()
    group = config.build_learner_group(spaces=spaces)
    yield group
    group.shutdown()


@pytest.mark.parametrize("by_agent", [True, False])
@pytest.mark.parametrize("num_epochs", [1, 3])
@pytest.mark.remote
def test_two_learners_without_minibatches(
    by_agent: bool, num_epochs: int, group: AggLearnerGroup, sample: Callable[[], list[Any]]
) -> None:
    """Ray 2.60 raises a TypeError here."""
    group.config.shard_by_agent = by_agent
    before = [result.get() for result in group.foreach_learner(steps_taken)]
    group.update(episodes=sample(), num_epochs=num_epochs, minibatch_size=None, timesteps={})
    after = [result.get() for result in group.foreach_learner(steps_taken)]
    assert [now - then for now, then in zip(after, before, strict=True)] == [num_epochs] * 2


@pytest.mark.remote
def test_learner_that_replays_a_batch_goes_in_step(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    """APPO's buffers draw at random: one learner's batch may be new while the other's was observed before."""
    episodes = sample()

    def observe(learner: Any) -> Any:
        batch = MultiAgentBatch({MODULE: SampleBatch(learner.make_batch(copy.deepcopy(episodes))[MODULE])}, env_steps=200)
        if torch.distributed.get_rank() == 1:
            del batch[MODULE][RETURN]
        learner.aggregators.clear()
        learner.observe_batch(batch)
        return learner.aggregator(MODULE).returns

    ended = {agent_of(episode) for episode in episodes if episode.is_done}
    known = [result.get() for result in group.foreach_learner(observe, timeout_seconds=60)]
    assert len(known) == 2
    for returns in known:
        assert set(returns.isfinite().nonzero().flatten().tolist()) == ended


def steps_taken(learner: Any) -> int:
    (_, optimizer), *_ = learner.optimizers()
    state = next(iter(optimizer.state.values()), {"step": 0})
    return int(state["step"])
