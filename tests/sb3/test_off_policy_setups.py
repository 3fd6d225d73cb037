"""Off-policy aggregation with every kind of buffer, observation and network: stock's update, and each agent's gradient."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from rl_agg import Combiner
from tests.sb3.flattened import parameters
from tests.sb3.matrix_runs import BlinkDict, BlinkImage
from tests.sb3.replays import PAIRS, settings

AGENTS = 5
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}}
MEMORY = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
IMAGES = {"features_extractor_kwargs": {"features_dim": 8}}


def flipping() -> BitFlippingEnv:
    return BitFlippingEnv(n_bits=4, continuous=True)


SETUPS: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "pendulum": ("sac", "MlpPolicy", "Pendulum-v1", {}),
    "memory": ("dqn", "MlpPolicy", "CartPole-v1", MEMORY),
    "n_steps": ("td3", "MlpPolicy", "Pendulum-v1", {"n_steps": 3}),
    "normalized": ("ddpg", "MlpPolicy", "Pendulum-v1", {}),
    "dict": ("qrdqn", "MultiInputPolicy", BlinkDict, {}),
    "images": ("dqn", "CnnPolicy", BlinkImage, {"policy_kwargs": IMAGES}),
    "gsde": ("sac", "MlpPolicy", "Pendulum-v1", {"use_sde": True}),
    "shared": ("tqc", "MlpPolicy", "Pendulum-v1", {"policy_kwargs": {"net_arch": [16], "share_features_extractor": True}}),
    "her": ("sac", "MultiInputPolicy", flipping, {"replay_buffer_class": HerReplayBuffer, "learning_starts": 60}),
    "entropy": ("tqc", "MlpPolicy", "Pendulum-v1", {"ent_coef": 0.1, "gradient_steps": 2}),
}
DEFAULT = ("memory", "her")
ALL = [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in SETUPS]


def build(setup: str, aggregated: bool = True, **others: Any) -> Any:
    name, policy, env, own = SETUPS[setup]
    worlds: VecEnv = make_vec_env(env, AGENTS, seed=0)
    if setup == "normalized":
        worlds = VecNormalize(worlds)
    return PAIRS[name][aggregated](
        policy, worlds, **settings(name, **{**deepcopy(SMALL), "batch_size": 30, **deepcopy(own), **others})
    )


class PlainMean(Combiner):
    """The mean of the agents' gradients, seen one by one."""

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        return gradients.mean(0)


@pytest.mark.parametrize("setup", ALL)
def test_mean_in_stocks_order_is_stock(setup: str) -> None:
    one = build(setup, aggregated=False).learn(240)
    other = build(setup, aggregation="mean", minibatches="stock").learn(240)
    assert one._n_updates == other._n_updates > 10
    assert torch.equal(parameters(one), parameters(other))


@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
@pytest.mark.parametrize("setup", ALL)
def test_the_agents_own_gradients_have_the_mean_of_one_backward(setup: str, minibatches: str) -> None:
    """By one network for all agents where layers are linear, by a backward pass for each elsewhere."""
    steps = []
    for aggregation in ("samples" if minibatches == "stock" else "mean", PlainMean()):
        model = build(setup, aggregation=aggregation, minibatches=minibatches, learning_starts=1000).learn(200)
        model.set_random_seed(7)
        before = parameters(model)
        model.train(gradient_steps=1, batch_size=30)
        steps.append(model)
        assert not torch.equal(before, parameters(model))
    one, other = steps
    if minibatches == "stock":  # agents' parts differ, so that the mean of agents is not that of samples
        assert not torch.allclose(parameters(one), parameters(other), atol=1e-6)
        return
    for part in one.algorithm.parts:
        gradients = []
        for model in steps:
            groups = getattr(model, part.network).parameters()
            gradients.append(
                torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in groups])
            )
        if part.network == "critic":  # the actor's loss has left its own gradient there since
            continue
        assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()
    # Adam's first step hides sizes of gradients: signs of those that are 0 but for rounding may differ
    difference = (parameters(one) - parameters(other)).abs()
    assert (difference > 1e-5).float().mean() < 0.01


@pytest.mark.parametrize("setup", ALL)
@pytest.mark.parametrize(
    "scheme",
    [
        {"aggregation": "l_weighted"},
        {"aggregation": "median", "communication": "lag"},
        {"aggregation": "r_weighted", "compression": "top_k", "compression_kwargs": {"fraction": 0.1}, "interval": 2},
        {"aggregation": "krum", "attack": {"kind": "sign_flip", "agents": [1]}, "minibatches": "stock"},
    ],
    ids=["l_weighted", "lag", "top_k", "attack"],
)
def test_schemes_train(setup: str, scheme: dict[str, Any]) -> None:
    model = build(setup, **scheme)
    before = parameters(model)
    model.learn(240)
    assert parameters(model).isfinite().all()
    assert not torch.equal(before, parameters(model))
    assert model.ledger.messages > 0
    assert np.isfinite([value for key, value in model.logger.name_to_value.items() if key.startswith("agg/")]).all()
