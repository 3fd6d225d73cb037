"""The gradient is the weighted sum of the agents' own, on any number of learners, however the episodes are spread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ray import cloudpickle
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rl_agg import Signals, weights
from rllib_agg.aggregation.learner_group import AgentTrainingData, AggLearnerGroup
from tests.rllib.groups import MODULE, UPDATE, configure, gradients, start_group
from tests.rllib.ppo_configs import tiny_ppo

cloudpickle.register_pickle_by_value(sys.modules[__name__])

RULES = ("sum", "mean", "r_weighted", "l_weighted", "e_weighted")


@pytest.fixture(
    scope="module",
    params=[0, 1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.remote)],
    ids="learners{}".format,
)
def group(request: pytest.FixtureRequest, spaces: dict[str, Any]) -> Iterator[AggLearnerGroup]:
    group = start_group(spaces, request.param, advantage_norm="none")
    yield group
    group.shutdown()


def stock_batches(shards: list[list[Any]], group: AggLearnerGroup, spaces: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """RLlib's own PPO learner with the group's weights, and what its connectors make of each learner's episodes."""
    from ray.rllib.algorithms.ppo import PPOConfig

    config = PPOConfig().environment("CartPole-v1").rl_module(model_config=dict(tiny_ppo().model_config))
    learner = config.training(use_kl_loss=True).build_learner(spaces=spaces)
    assert type(learner) is PPOTorchLearner
    learner.module.set_state(group.get_weights())
    adapted = group.foreach_learner(lambda learner: learner.curr_kl_coeffs_per_module[MODULE].item()).result_or_errors[0].get()
    learner.curr_kl_coeffs_per_module[MODULE].data.fill_(adapted)
    batches = []
    for episodes in shards:
        batch = learner._learner_connector(
            rl_module=learner.module, batch={}, episodes=episodes, shared_data={}, metrics=learner.metrics
        )[MODULE]
        values = learner.module[MODULE].compute_values(batch).detach()
        batch["raw"] = batch[Postprocessing.VALUE_TARGETS] - values
        batches.append(batch)
    return learner, batches


def separate_backwards(
    learner: Any, batches: list[dict[str, Any]], rule: str, num_agents: int, norm: str
) -> dict[str, Tensor]:
    """One backward of RLlib's loss for each agent alone, then the weighted sum."""
    columns = {k: torch.cat([batch[k] for batch in batches]) for k in batches[0] if torch.is_tensor(batches[0][k])}
    valid = columns[Columns.LOSS_MASK]
    losses, returns, grads, counts, explained = [], [], [], [], []
    module = learner.module[MODULE]
    for agent in range(num_agents):
        rows = (columns["agg_agent"] == agent) & valid
        own = {name: column[rows] for name, column in columns.items()}
        raw, targets = own["raw"].double(), own[Postprocessing.VALUE_TARGETS].double()
        explained.append(0.3 * (1 - raw.var() / targets.var()).clamp(0, 1).item())  # a running mean, from 0 on
        raw = own["raw"]
        own[Postprocessing.ADVANTAGES] = (raw - raw.mean()) / (raw.std() + 1e-8) if norm == "agent" else raw
        if norm == "stock":
            own[Postprocessing.ADVANTAGES] = columns[Postprocessing.ADVANTAGES][rows]
        loss = learner.compute_loss_for_module(
            module_id=MODULE, config=learner.config, batch=own, fwd_out=module.forward_train(own)
        )
        module.zero_grad()
        loss.backward()
        grads.append({name: parameter.grad.clone() for name, parameter in module.named_parameters()})
        losses.append(loss.item())
        returns.append(own["agg_return"].nanmean().item())
        counts.append(int(rows.sum()))
    reported = {"returns": returns, "losses": losses, "num_samples": counts, "explained_variance": explained}
    w = weights(rule, Signals(**reported))
    assert rule != "e_weighted" or w.max() > 1.01 * w.min()
    return {name: sum(w[a] * grads[a][name] for a in range(num_agents)) for name in grads[0]}


@pytest.mark.parametrize("shard_by_agent", [False, True], ids=["sliced", "whole_agents"])
@pytest.mark.parametrize("rule", RULES)
def test_gradient_is_the_weighted_sum_of_separate_backwards(
    rule: str, shard_by_agent: bool, group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]
) -> None:
    check(rule, "none", shard_by_agent, group, sample, spaces)


@pytest.mark.parametrize("norm", ["agent", "stock"])
def test_gradient_with_standardised_advantages(
    norm: str, group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]
) -> None:
    check("l_weighted", norm, False, group, sample, spaces)


def check(
    rule: str,
    norm: str,
    shard_by_agent: bool,
    group: AggLearnerGroup,
    sample: Callable[[], list[Any]],
    spaces: dict[str, Any],
) -> None:
    if rule == "e_weighted":  # an untrained critic explains nothing, and RLlib's clipping of errors keeps it from learning
        configure(group, aggregation="mean", advantage_norm=norm, vf_clip_param=1e9)
        group.update(episodes=sample(), **{**UPDATE, "num_epochs": 200})
    configure(group, aggregation=rule, advantage_norm=norm, vf_clip_param=10.0)
    group.config.shard_by_agent = shard_by_agent
    if len(group) >= 1:  # even one remote learner gets them sorted, on which RLlib's standardisation depends
        data = AgentTrainingData(sample(), by_agent=shard_by_agent)
        shards = [part.episodes for part, _ in data.shard(len(group), num_epochs=1, minibatch_size=None)]
    else:
        shards = [sample()]
    learner, batches = stock_batches(shards, group, spaces)
    expected = separate_backwards(learner, batches, rule, num_agents=5, norm=norm)
    group.update(episodes=sample(), **UPDATE)
    for actual in gradients(group):
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, rtol=1e-5, atol=1e-5)


def test_learners_stay_identical_to_the_bit(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    if len(group) < 2:
        pytest.skip("one learner has none to be identical to")
    configure(group, aggregation="l_weighted", advantage_norm="stock")
    for update in range(20):
        group.config.shard_by_agent = update % 2 == 0
        group.update(episodes=sample(), num_epochs=2, minibatch_size=32, shuffle_batch_per_epoch=True, timesteps={})
    read = lambda learner: (  # noqa: E731
        learner.module[MODULE].unwrapped().get_state(),
        learner.aggregator(MODULE).returns,
        learner.curr_kl_coeffs_per_module[MODULE].item(),
    )
    first, *others = [result.get() for result in group.foreach_learner(read)]
    assert len(others) == len(group) - 1
    for parameters, returns, kl_coeff in others:
        assert all((parameters[name] == value).all() for name, value in first[0].items())
        assert torch.equal(returns, first[1])
        assert kl_coeff == first[2]
