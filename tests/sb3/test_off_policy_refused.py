"""What an off-policy algorithm cannot do is refused, and a ``train()`` that goes around the aggregation is found."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import CrossQ
from stable_baselines3 import DQN, PPO, SAC

from sb3_agg import AggDQN, AggregationMixin, AggSAC, OffPolicyAggregationMixin
from tests.sb3.flattened import parameters
from tests.sb3.replays import marked, ours, settings


def pasted(method: Any, *changes: tuple[str, str]) -> Any:
    """A copy of a method's text with parts replaced."""
    source = textwrap.dedent(inspect.getsource(method))
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    namespace = dict(vars(inspect.getmodule(method)))  # type: ignore[arg-type]
    exec(source, namespace)
    return namespace[method.__name__]


def made_of(stock: Any, *changes: tuple[str, str], name: str, **others: Any) -> Any:
    own = type("My" + stock.__name__, (stock,), {"train": pasted(stock.train, *changes)})
    kind = type("My", (OffPolicyAggregationMixin, own), {})
    return kind("MlpPolicy", marked(name), **settings(name, **others))


@pytest.mark.parametrize(
    ("base", "words"),
    [(CrossQ, r"CrossQ's is not: its critic normalises a sample by the others.*choose from DQN"), (PPO, "PPO has no replay")],
)
def test_other_algorithms_are_refused(base: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        type("My", (OffPolicyAggregationMixin, base), {})


def test_the_mixin_for_rollouts_names_this_one() -> None:
    with pytest.raises(TypeError, match="OffPolicyAggregationMixin is for DQN"):
        type("My", (AggregationMixin, SAC), {})


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"aggregation": "fedavg"}, "aggregation='fedavg'.*have no parameters of their own"),
        ({"aggregation": "actor_sum"}, "have no parameters of their own"),
        ({"payload": "parameters"}, "payload='parameters'.*have no parameters of their own"),
        ({"payload": "scores"}, "exchanges scores"),
        ({"interval": "on_arrival"}, "asynchronous"),
        ({"aggregation": "e_weighted"}, "aggregation='e_weighted'.*follows explained_variance from rollout to rollout"),
        ({"aggregation": "agreement"}, "follows agreement from rollout to rollout"),
        ({"aggregation": "r_wieghted"}, "did you mean 'r_weighted'"),
        ({"minibatches": "equal"}, "unknown minibatches 'equal'"),
        ({"return_window": 0}, "return_window must be an integer >= 1, got 0"),
        ({"fused_optimizer": "yes"}, "fused_optimizer must be True or False, got 'yes'"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"train_freq": (2, "episode")}, r"train_freq=\(2, 'episode'\) needs one environment, and there are 5"),
        ({"aggregation": "krum", "aggregation_kwargs": {"num_byzantine": 3}}, "num_byzantine"),
        ({"attack": {"kind": "nan", "agents": [9]}}, "agent 9"),
    ],
)
def test_settings_without_a_meaning_are_refused(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ours("sac", **own)


@pytest.mark.parametrize("setting", ["advantage_norm", "closed_form", "min_episodes"])
def test_settings_of_rollouts_are_unknown(setting: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{setting}'"):
        ours("sac", **{setting: 1})


def test_a_batch_that_does_not_split_is_rounded_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="batch_size=32 does not split evenly among 5 agents: minibatches hold 30 samples"):
        model = ours("dqn", batch_size=32).learn(40)
    assert model._minibatches.batch.counts.tolist() == [6] * 5


def test_one_environment_is_one_agent() -> None:
    with pytest.warns(UserWarning, match="one environment, so one agent"):
        model = ours("dqn", num_agents=1, aggregation="r_weighted").learn(60)
    assert model.agent_weights.tolist() == [2.0]


def test_environments_without_episodes_are_named() -> None:
    model = ours("dqn", aggregation="r_weighted")
    with pytest.warns(UserWarning, match="no agent has finished an episode, so r_weighted weighed them equally"):
        model.learn(40)


# A train() of one's own --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["r_weighted", "l_weighted", "median"])
@pytest.mark.parametrize(("stock", "agg", "name"), [(DQN, AggDQN, "dqn"), (SAC, AggSAC, "sac")])
def test_a_train_in_the_algorithm_is_aggregated(stock: Any, agg: Any, name: str, aggregation: str) -> None:
    found = made_of(stock, name=name, aggregation=aggregation).learn(100)
    expected = ours(name, aggregation=aggregation).learn(100)
    assert torch.equal(parameters(found), parameters(expected))


def test_a_train_over_the_aggregation_is_refused() -> None:
    with pytest.raises(TypeError, match=r"My.train\(\) would be called in place of OffPolicyAggregationMixin.train\(\)"):
        type("My", (AggSAC,), {"train": pasted(SAC.train)})


def test_a_train_of_the_object_that_goes_around_is_found() -> None:
    model = ours("dqn")
    model.train = lambda gradient_steps, batch_size: DQN.train(model, gradient_steps, batch_size)
    with pytest.raises(RuntimeError, match="nothing was aggregated"):
        model.learn(100)


TWICE_THE_ROWS = (
    "current_q_values = self.q_net(replay_data.observations)",
    "current_q_values = self.q_net(th.cat([replay_data.observations] * 2))[: len(replay_data.observations)]",
)
ANOTHER_NETWORK = ("self.q_net(replay_data.observations)", "self.q_net.q_net(replay_data.observations)")
OWN_LOSS = ("F.smooth_l1_loss(current_q_values, target_q_values)", "(current_q_values - target_q_values).square().mean()")
DECAY = (
    "F.smooth_l1_loss(current_q_values, target_q_values)",
    "F.smooth_l1_loss(current_q_values, target_q_values) + 0.1 * sum(p.square().sum() for p in self.q_net.parameters())",
)


@pytest.mark.parametrize(
    ("change", "aggregation", "words"),
    [
        (TWICE_THE_ROWS, "r_weighted", "evaluates q_net on 80 rows, but sampled 40"),
        (ANOTHER_NETWORK, "r_weighted", r"steps policy.optimizer without a call of q_net.forward\(\)"),
        (
            OWN_LOSS,
            "l_weighted",
            r"My.train\(\) does not compute its critics' by torch.nn.functional.smooth_l1_loss",
        ),
        (DECAY, "median", "has a part that reaches the parameters of q_net other than through its outputs"),
    ],
    ids=["rows", "network", "loss", "decay"],
)
def test_a_train_that_the_hooks_cannot_follow_is_found(change: tuple[str, str], aggregation: str, words: str) -> None:
    model = made_of(DQN, change, name="dqn", aggregation=aggregation)
    with pytest.raises(ValueError, match=words):
        model.learn(100)


def test_an_own_loss_is_fine_where_the_rule_reads_none() -> None:
    model = made_of(DQN, OWN_LOSS, name="dqn", aggregation="r_weighted").learn(100)
    assert np.ptp(model.agent_weights) > 0
