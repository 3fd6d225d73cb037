"""Rules that remember signals, in Stable-Baselines3: what they read is what the rollouts hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggA2C, AggPPO, make_unequal_vec_env

AGENTS, STEPS = 4, 64


class Rollouts(BaseCallback):
    """Keeps returns and predictions ``[A, T]`` of each rollout, and the weights of each update."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: list[tuple[np.ndarray, np.ndarray]] = []
        self.weights: list[np.ndarray] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.rollouts:
            self.weights.append(self.model.agent_weights.copy())

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.rollouts.append((buffer.returns.T.copy(), buffer.values.T.copy()))

    def _on_training_end(self) -> None:
        self._on_rollout_start()


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("cls", [AggPPO, AggA2C])
def test_weights_follow_the_variance_that_the_critic_explains(cls: Any, closed_form: bool) -> None:
    env = make_unequal_vec_env("CartPole-v1", AGENTS, [{"agents": [0], "broken_sensors": True}], seed=0)
    settings = {"prior": 0.2, "smoothing": 0.5}
    seen = Rollouts()
    model = cls(
        "MlpPolicy", env, aggregation="e_weighted", aggregation_kwargs=settings, n_steps=STEPS, seed=0, closed_form=closed_form
    )
    model.learn(6 * STEPS * AGENTS, callback=seen)
    means = np.zeros(AGENTS)
    assert len(seen.weights) == 6
    for (returns, values), found in zip(seen.rollouts, seen.weights, strict=True):
        share = 1 - np.var(returns - values, axis=1, dtype=np.float64) / np.var(returns, axis=1, dtype=np.float64)
        means = 0.5 * means + 0.5 * share.clip(0, 1)
        np.testing.assert_allclose(found, (means + 0.2) / (means + 0.2).sum(), rtol=1e-4)
    assert np.ptp(seen.weights) > 1e-3


@pytest.mark.parametrize("rule", ["agreement", "snr_weighted", "equal_norms", "guarded"])
def test_rules_that_compare_gradients_train(rule: str) -> None:
    """And count as the mean in the first update, but for equal norms, which are those of the step."""
    seen = Rollouts()
    model = AggPPO("MlpPolicy", make_vec_env("CartPole-v1", AGENTS, seed=0), aggregation=rule, n_steps=STEPS, seed=0)
    model.learn(2 * STEPS * AGENTS, callback=seen)
    assert all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters())
    if rule != "equal_norms":
        np.testing.assert_allclose(seen.weights[0], 1 / AGENTS, rtol=1e-6)
    if rule != "guarded":
        assert np.ptp(seen.weights[1]) > 1e-3
    numbers = sum(parameter.numel() for parameter in model.policy.parameters())
    messages = model.ledger.messages
    assert model.ledger.bytes == messages * 4 * (numbers + (rule == "guarded"))


def test_a_liar_is_not_listened_to() -> None:
    model = AggPPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 8, seed=0),
        aggregation="agreement",
        attack={"kind": "sign_flip", "agents": [2], "scale": 10.0},
        n_steps=STEPS,
        seed=0,
    )
    model.learn(3 * STEPS * 8)
    assert model.agent_weights[2] < 0.02
    assert np.delete(model.agent_weights, 2).min() > 0.05


def test_an_agent_whose_rewards_are_not_finite_is_not_observed() -> None:
    """Its running mean stays as it was, and its weight comes back with it."""
    model = AggPPO("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), aggregation="e_weighted", n_steps=STEPS, seed=0)
    model.learn(3 * STEPS * 4)
    before = model.exchange.state_dict()["memory"]["explained_variance"]["means"]
    model.rollout_buffer.returns[:] = np.where(np.arange(4 * STEPS)[:, None] < STEPS, np.nan, model.rollout_buffer.returns)
    with pytest.warns(UserWarning, match="agent 0 had a NaN"):
        model.train()
    after = model.exchange.state_dict()["memory"]["explained_variance"]["means"]
    assert after[0] == before[0]
    assert not torch.equal(after[1:], before[1:])
    assert model.agent_weights[0] == 0
