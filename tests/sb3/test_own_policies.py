"""Policies that differ from SB3's: in their optimiser, what of them is trained, how they act, what their layers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn

from sb3_agg import AggPPO
from tests.sb3.flattened import flat
from tests.sb3.local_runs import copies
from tests.sb3.worlds import cartpoles

SETTINGS: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}


def with_optimizer(make: Callable[..., torch.optim.Optimizer]) -> type[ActorCriticPolicy]:
    """A policy that makes its own: ``make(policy, learning_rate)``."""

    class Policy(ActorCriticPolicy):
        def _build(self, lr_schedule: Callable[[float], float]) -> None:
            super()._build(lr_schedule)
            self.optimizer = make(self, lr_schedule(1))

    return Policy


def two_groups(policy: ActorCriticPolicy, rate: float) -> torch.optim.Optimizer:
    body, heads = policy.mlp_extractor.parameters(), [*policy.action_net.parameters(), *policy.value_net.parameters()]
    return torch.optim.Adam([{"params": body}, {"params": heads, "weight_decay": 0.1}], lr=rate, eps=1e-3)


def heads_alone(policy: ActorCriticPolicy, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam([*policy.action_net.parameters(), *policy.value_net.parameters()], lr=rate)


def descent(policy: ActorCriticPolicy, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(policy.parameters(), lr=rate)


@pytest.mark.parametrize("make", [two_groups, heads_alone, descent])
def test_a_policys_own_optimizer_steps_as_under_stock_ppo(make: Callable[..., torch.optim.Optimizer]) -> None:
    trained = []
    for algorithm, own in ((PPO, {}), (AggPPO, {"aggregation": "mean", "advantage_norm": "stock", "minibatches": "stock"})):
        model = algorithm(with_optimizer(make), cartpoles(4), **own, **SETTINGS)
        before = flat(model.policy.mlp_extractor)
        kept = [(group["eps"], group["weight_decay"]) for group in model.policy.optimizer.param_groups if "eps" in group]
        trained.append((flat(model.learn(64).policy), kept, type(model.policy.optimizer)))
        assert torch.equal(before, flat(model.policy.mlp_extractor)) == (make is heads_alone)
    torch.testing.assert_close(trained[1][0], trained[0][0], atol=1e-5, rtol=0)
    assert trained[1][1:] == trained[0][1:]


def test_adam_is_fused_in_every_group_unless_a_kernel_was_chosen() -> None:
    model = AggPPO(with_optimizer(two_groups), cartpoles(4), **SETTINGS)
    assert [group["fused"] for group in model.policy.optimizer.param_groups] == [True, True]
    chosen = AggPPO("MlpPolicy", cartpoles(4), policy_kwargs={"optimizer_kwargs": {"foreach": True}}, **SETTINGS)
    assert not chosen.policy.optimizer.param_groups[0]["fused"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (two_groups, "one group of parameters, got 2"),
        (heads_alone, "lacks mlp_extractor.policy_net.0.weight"),
    ],
)
def test_local_models_raise_for_an_optimizer_that_does_not_fit(make: Callable[..., Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AggPPO(with_optimizer(make), cartpoles(4), aggregation="fedavg", **SETTINGS)


def test_local_models_step_as_a_policys_own_optimizer_does() -> None:
    kwargs = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}
    expected = AggPPO("MlpPolicy", cartpoles(4), aggregation="fedavg", policy_kwargs=kwargs, **SETTINGS).learn(64)

    def momentum(policy: ActorCriticPolicy, rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(policy.parameters(), lr=rate, momentum=0.5)

    found = AggPPO(with_optimizer(momentum), cartpoles(4), aggregation="fedavg", **SETTINGS).learn(64)
    assert torch.equal(flat(found.policy), flat(expected.policy))


@pytest.mark.parametrize("aggregation", ["mean", "median", "fedavg", "actor_mean"])
def test_what_is_frozen_before_training_stays_and_is_not_sent(aggregation: str) -> None:
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation=aggregation, **SETTINGS)
    model.policy.mlp_extractor.requires_grad_(False)
    before, heads = flat(model.policy.mlp_extractor), flat(model.policy.action_net)
    model.learn(64)
    assert torch.equal(before, flat(model.policy.mlp_extractor))
    assert not torch.equal(heads, flat(model.policy.action_net))
    trained = sum(parameter.numel() for parameter in model.policy.parameters() if parameter.requires_grad)
    kind = "parameters" if aggregation == "fedavg" else "gradients"
    assert model.ledger.bytes_of(kind) == 4 * trained * model.ledger.messages


def test_freezing_among_agents_that_differ_is_refused() -> None:
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="actor_mean", **SETTINGS).learn(64)
    model.policy.mlp_extractor.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen, thawed or replaced"):
        model.learn(64)


def test_agents_of_different_start_keep_it_where_layers_are_frozen_before_training() -> None:
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="actor_mean", aggregation_kwargs={"same_init": False}, **SETTINGS)
    num_heads = sum(flat(head).numel() for head in (model.policy.action_net, model.policy.value_net))
    heads = copies(model)[:, -num_heads:]
    extractor = flat(model.policy.mlp_extractor)
    model.policy.mlp_extractor.requires_grad_(False)
    seen = []
    model.learn(64, callback=lambda run, _: seen.append(copies(run["self"])) or True)
    torch.testing.assert_close(seen[0], heads)
    assert torch.equal(extractor, flat(model.policy.mlp_extractor))


class AsDouble(FlattenExtractor):
    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations).double()


@pytest.mark.parametrize("system", [{}, {"aggregation": "median"}, {"aggregation": "fedavg", "interval": 2}], ids=str)
def test_a_policy_in_double_precision_stays_so(system: dict[str, Any]) -> None:
    def double(policy: ActorCriticPolicy, rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(policy.double().parameters(), lr=rate)

    policy_kwargs = {"features_extractor_class": AsDouble}
    model = AggPPO(with_optimizer(double), cartpoles(4), policy_kwargs=policy_kwargs, **system, **SETTINGS)
    before = flat(model.policy)
    model.learn(128)
    assert flat(model.policy).dtype == torch.float64
    assert flat(model.policy).isfinite().all()
    assert not torch.equal(flat(model.policy), before)


class AlwaysLeft(ActorCriticPolicy):
    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        actions, values, log_prob = super().forward(*args, **kwargs)
        return torch.zeros_like(actions), values, log_prob


def test_a_policy_that_acts_in_its_own_way() -> None:
    model = AggPPO(AlwaysLeft, cartpoles(4), **SETTINGS)
    model.learn(128)
    assert not model.rollout_buffer.actions.any()
    with pytest.warns(
        UserWarning, match=r"AlwaysLeft is recurrent, compiled, or acts by gSDE or a method of its own: each of 4 agents"
    ):
        model = AggPPO(AlwaysLeft, cartpoles(4), aggregation="actor_mean", **SETTINGS)
    model.learn(128)
    assert not model.rollout_buffer.actions.any()
    assert len({tuple(copy.tolist()) for copy in copies(model)}) == 4


class OnlyOnes(ActorCriticPolicy):
    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Distribution:
        found = super()._get_action_dist_from_latent(latent_pi)
        found.distribution = torch.distributions.Categorical(logits=found.distribution.logits + torch.tensor([-1e3, 0.0]))
        return found


def test_a_policy_with_a_distribution_of_its_own() -> None:
    with pytest.warns(UserWarning, match="OnlyOnes is recurrent, compiled, or acts by gSDE or a method of its own"):
        model = AggPPO(OnlyOnes, cartpoles(4), aggregation="actor_mean", **SETTINGS)
    model.learn(128)
    assert model.rollout_buffer.actions.all()


@pytest.mark.parametrize("aggregation", ["mean", "fedavg"])
def test_settings_of_the_optimizer_act_when_they_change(aggregation: str) -> None:
    def trained(weight_decay: float) -> torch.Tensor:
        model = AggPPO("MlpPolicy", cartpoles(4), aggregation=aggregation, **SETTINGS)
        model.policy.optimizer.param_groups[0]["weight_decay"] = weight_decay
        return flat(model.learn(64).policy)

    assert not torch.equal(trained(0.0), trained(1.0))


class Tied(BaseFeaturesExtractor):
    """Two layers with one weight."""

    def __init__(self, space: Any) -> None:
        super().__init__(space, 4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(observations)))


def test_gradients_of_a_shared_weight_add_up_for_each_agent() -> None:
    """A gate that lets everyone speak changes nothing but how gradients are computed."""
    policies = []
    for gate in ({}, {"communication": "lag", "communication_kwargs": {"xi": 0}}):
        kwargs = {"features_extractor_class": Tied}
        model = AggPPO("MlpPolicy", cartpoles(4), aggregation="mean", policy_kwargs=kwargs, **gate, **SETTINGS)
        policies.append(flat(model.learn(64).policy))
    torch.testing.assert_close(policies[1], policies[0], atol=1e-5, rtol=0)
