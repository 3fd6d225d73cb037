"""One weighted backward inside SB3's train() against one backward for each agent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggA2C, AggPPO
from tests.sb3.matrix_runs import Step, build, check_every_step, num_steps
from tests.sb3.worlds import cartpoles


def expected_weights(rule: str, losses: np.ndarray, returns: np.ndarray) -> np.ndarray:
    k, returns = len(losses), np.where(np.isnan(returns), np.nanmean(returns), returns)
    if rule == "sum":
        return np.ones(k)
    if rule == "mean":
        return np.ones(k) / k
    shares = returns - returns.min() if rule == "r_weighted" else losses
    if rule == "l_weighted" and (losses < 0).any():
        shares = losses - losses.min()
    return shares / shares.sum() + 1 / k


@pytest.mark.parametrize(
    ("setup", "settings"),
    [
        ("discrete", {"n_steps": 64, "batch_size": 40}),
        ("discrete", {"n_steps": 64, "batch_size": None}),
        ("continuous", {"n_steps": 200, "batch_size": 250}),  # Pendulum's episodes last 200 steps
        ("recurrent", {"n_steps": 32, "batch_size": None}),
    ],
)
@pytest.mark.parametrize("rule", ["sum", "mean", "r_weighted", "l_weighted"])
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_one_backward_equals_one_per_agent(rule: str, setup: str, settings: dict[str, Any]) -> None:
    model = build(setup, aggregation=rule, **settings)

    def expected(step: Step) -> torch.Tensor:
        return torch.as_tensor(expected_weights(rule, step.losses, model.agent_returns)).float() @ step.gradients

    check_every_step(model, expected, num_steps(model))


@pytest.mark.parametrize("normalize", [True, False])
def test_advantages_are_normalized_over_each_agents_rollout(normalize: bool) -> None:
    model, collected = AggPPO("MlpPolicy", cartpoles(3), n_steps=32, batch_size=None, normalize_advantage=normalize), []
    compute = model.rollout_buffer.compute_returns_and_advantage

    def spy(*args: Any, **kwargs: Any) -> None:
        compute(*args, **kwargs)
        collected.append(model.rollout_buffer.advantages.copy())  # [T, A]

    model.rollout_buffer.compute_returns_and_advantage = spy
    model.learn(96)
    (advantages,) = collected
    if normalize:
        advantages = (advantages - advantages.mean(0)) / (advantages.std(0, ddof=1) + 1e-8)
    np.testing.assert_allclose(model.rollout_buffer.advantages.reshape(3, 32), advantages.T, rtol=1e-5, atol=1e-6)


def test_rules_tell_agents_apart() -> None:
    """The identity above would also hold for equal weights: r and l must not be that."""
    for rule in ("r_weighted", "l_weighted"):
        model = AggPPO("MlpPolicy", cartpoles(4), aggregation=rule, n_steps=64, seed=0, device="cpu")
        model.learn(256)
        assert np.ptp(model.agent_weights) > 0.05


class LossRecordingPPO(AggPPO):
    """Keeps the sample losses of the last minibatch."""

    def _sample_losses(self, *args: Any) -> torch.Tensor:
        self.last_losses = super()._sample_losses(*args)
        return self.last_losses


class LossRecordingA2C(AggA2C):
    """Keeps the sample losses of the last minibatch."""

    def _sample_losses(self, *args: Any) -> torch.Tensor:
        self.last_losses = super()._sample_losses(*args)
        return self.last_losses


@pytest.mark.parametrize("advantage_norm", ["agent", "stock"])
@pytest.mark.parametrize("settings", [{}, {"clip_range_vf": 0.1, "ent_coef": 0.02}])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_sample_losses_average_to_the_loss_sb3_logs(env: str, settings: dict[str, Any], advantage_norm: str) -> None:
    model = LossRecordingPPO(
        "MlpPolicy",
        make_vec_env(env, 4, seed=1),
        aggregation="l_weighted",
        advantage_norm=advantage_norm,
        n_steps=64,
        closed_form=False,
        seed=1,
        device="cpu",
        **settings,
    ).learn(512)
    assert model.last_losses.mean().item() == pytest.approx(model.logger.name_to_value["train/loss"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_a2c_sample_losses_average_to_its_loss(normalize: bool) -> None:
    model = LossRecordingA2C(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 4, seed=1),
        aggregation="l_weighted",
        advantage_norm="stock",
        normalize_advantage=normalize,
        ent_coef=0.01,
        closed_form=False,
        seed=1,
        device="cpu",
    ).learn(40)
    log = model.logger.name_to_value
    loss = log["train/policy_loss"] + 0.01 * log["train/entropy_loss"] + 0.5 * log["train/value_loss"]
    assert model.last_losses.mean().item() == pytest.approx(loss, rel=1e-5)
