"""With stock settings nothing changes, to the bit; files go both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO
from tests.sb3.flattened import parameters
from tests.sb3.worlds import cartpoles

STOCK: dict[str, Any] = {
    "aggregation": "mean",
    "advantage_norm": "stock",
    "minibatches": "stock",
    "fused_optimizer": False,
    "closed_form": False,
}


@pytest.mark.parametrize(
    ("stock", "weighted", "policy"),
    [
        (PPO, AggPPO, "MlpPolicy"),
        (A2C, AggA2C, "MlpPolicy"),
        (RecurrentPPO, AggRecurrentPPO, "MlpLstmPolicy"),
    ],
)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_mean_is_bit_identical_to_stock(stock: Any, weighted: Any, policy: str, env: str) -> None:
    settings: dict[str, Any] = {"n_steps": 32, "seed": 7, "device": "cpu"}
    if stock is RecurrentPPO:
        settings |= {"n_epochs": 2, "policy_kwargs": {"lstm_hidden_size": 8}}
    one = stock(policy, make_vec_env(env, 4, seed=7), **settings).learn(3 * 128)
    other = weighted(policy, make_vec_env(env, 4, seed=7), **STOCK, **settings).learn(3 * 128)
    assert torch.equal(parameters(one), parameters(other))


def test_maskable_mean_is_bit_identical_to_stock() -> None:
    settings = {"n_steps": 32, "seed": 7, "device": "cpu"}
    one = MaskablePPO("MlpPolicy", cartpoles(4, 7), **settings).learn(3 * 128, use_masking=False)
    other = AggMaskablePPO("MlpPolicy", cartpoles(4, 7), **STOCK, **settings).learn(3 * 128, use_masking=False)
    assert torch.equal(parameters(one), parameters(other))


def test_another_rule_is_not_identical() -> None:
    """So that the identity above is not that of models that never learn."""
    settings = {"n_steps": 32, "seed": 7, "device": "cpu", **STOCK}
    one = AggPPO("MlpPolicy", cartpoles(4, 7), **settings).learn(256)
    other = AggPPO("MlpPolicy", cartpoles(4, 7), **{**settings, "aggregation": "r_weighted"}).learn(256)
    assert not torch.equal(parameters(one), parameters(other))


def test_stock_file_loads_and_trains_on(tmp_path: Path) -> None:
    stock = PPO("MlpPolicy", cartpoles(4), n_steps=32, seed=0, device="cpu").learn(128)
    stock.save(tmp_path / "stock")
    model = AggPPO.load(tmp_path / "stock", env=cartpoles(4), device="cpu", aggregation="r_weighted")
    assert torch.equal(parameters(model), parameters(stock))
    model.learn(128, reset_num_timesteps=False)
    assert model.num_timesteps == 256
    assert not torch.equal(parameters(model), parameters(stock))
    assert np.ptp(model.agent_weights) > 0


def test_file_loads_into_stock_for_inference(tmp_path: Path) -> None:
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="l_weighted", n_steps=32, batch_size=None, seed=0, device="cpu")
    model.learn(256).save(tmp_path / "weighted")
    stock = PPO.load(tmp_path / "weighted", device="cpu")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    actual, _ = stock.predict(observations, deterministic=True)
    np.testing.assert_array_equal(actual, expected)


def test_hooks_are_gone_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # torch.compile() sets it, for good
    model = AggPPO("MlpPolicy", cartpoles(2), aggregation="l_weighted", n_steps=32, seed=0, device="cpu").learn(64)
    assert model.policy.evaluate_actions.__func__ is ActorCriticPolicy.evaluate_actions
    assert "parameters" not in vars(model.policy)
    assert {"get", "_get_samples"}.isdisjoint(vars(model.rollout_buffer))
    assert model.normalize_advantage is True
    assert torch.distributions.Distribution._validate_args is True
