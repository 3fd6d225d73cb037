"""One weighted backward inside SB3's train() against k explicit backwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggA2C, AggPPO, AggRecurrentPPO

AGENTS, STEPS = 4, 64


class Recorder(RolloutBuffer):
    """Remembers which samples were drawn, in order."""

    drawn: list[int]

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        self.drawn.extend(batch_inds.tolist())
        return super()._get_samples(batch_inds, env)


class BeforeTraining(BaseCallback):
    """Copies the advantages as SB3 computed them."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.advantages = buffer.advantages.T.copy()
        buffer.drawn = []


def ppo_loss(model: Any, policy: Any, data: dict[str, torch.Tensor], advantages: torch.Tensor) -> torch.Tensor:
    """PPO's loss as Schulman et al. print it, with SB3's coefficients; mean over the samples given."""
    values, log_prob, entropy = type(policy).evaluate_actions(policy, data["observations"], data["actions"])
    ratio = (log_prob - data["log_probs"]).exp()
    clipped = torch.where(advantages > 0, ratio.clamp(max=1.2), ratio.clamp(min=0.8))
    surrogate = torch.where(ratio.isfinite(), torch.minimum(ratio * advantages, clipped * advantages), 0)
    return (-surrogate - model.ent_coef * entropy + model.vf_coef * (data["returns"] - values.flatten()) ** 2).mean()


def expected_weights(rule: str, losses: np.ndarray, returns: np.ndarray) -> np.ndarray:
    k = len(losses)
    if rule == "sum":
        return np.ones(k)
    if rule == "mean":
        return np.ones(k) / k
    shares = returns - returns.min() if rule == "r_weighted" else losses
    if rule == "l_weighted" and (losses < 0).any():
        shares = losses - losses.min()
    return shares / shares.sum() + 1 / k


@pytest.mark.parametrize("batch_size", [None, 64])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("rule", ["sum", "mean", "r_weighted", "l_weighted"])
def test_one_backward_equals_one_per_agent(rule: str, env: str, batch_size: int | None) -> None:
    steps = STEPS if env == "CartPole-v1" else 400  # Pendulum's episodes last 200 steps
    model = AggPPO(
        "MlpPolicy",
        make_vec_env(env, AGENTS, seed=3),
        aggregation=rule,
        n_steps=steps,
        batch_size=batch_size,
        n_epochs=2,
        ent_coef=0.01,
        max_grad_norm=1e9,
        rollout_buffer_class=Recorder,
        seed=3,
        device="cpu",
    )
    before, part, checked = BeforeTraining(), (steps if batch_size is None else batch_size // AGENTS), 0
    model.learn(steps * AGENTS, callback=before)  # one rollout of warm-up, so that advantages and values have some shape

    def check(*_: Any) -> None:
        nonlocal checked
        buffer, policy = model.rollout_buffer, model.policy
        mean, std = before.advantages.mean(1, keepdims=True), before.advantages.std(1, ddof=1, keepdims=True)
        advantages = torch.as_tensor(((before.advantages - mean) / (std + 1e-8)).ravel())
        size = part * AGENTS
        drawn = buffer.drawn[1:] if len(buffer.drawn) % size else buffer.drawn  # the first call only flattens
        start = 0 if batch_size is None else checked * size
        indices = np.array(drawn[start : start + size])
        np.testing.assert_array_equal(np.bincount(indices // steps), [part] * AGENTS)
        losses, gradients = [], []
        for agent in range(AGENTS):
            own = indices[indices // steps == agent]
            names = ("observations", "actions", "log_probs", "returns")
            data = {name: torch.as_tensor(getattr(buffer, name)[own]) for name in names}
            data = {name: tensor if name == "observations" else tensor.squeeze(-1) for name, tensor in data.items()}
            if env == "Pendulum-v1":
                data["actions"] = torch.as_tensor(buffer.actions[own])
            loss = ppo_loss(model, policy, data, advantages[own])
            losses.append(loss.item())
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, type(policy).parameters(policy))]))
        weights = torch.as_tensor(expected_weights(rule, np.array(losses), model.agent_returns)).float()
        expected = sum(w * g for w, g in zip(weights, gradients, strict=True))
        actual = torch.cat([p.grad.flatten() for p in type(policy).parameters(policy)])
        assert ((actual - expected).norm() / expected.norm()).item() <= 1e-6
        checked += 1

    model.policy.optimizer.register_step_pre_hook(check)
    model.learn(steps * AGENTS, callback=before)
    assert checked == 2 * (steps // part)


def test_rules_tell_agents_apart() -> None:
    """The identity above would also hold for equal weights: r and l must not be that."""
    for rule in ("r_weighted", "l_weighted"):
        model = AggPPO("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), aggregation=rule, n_steps=64, seed=0, device="cpu")
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
        seed=1,
        device="cpu",
    ).learn(40)
    log = model.logger.name_to_value
    loss = log["train/policy_loss"] + 0.01 * log["train/entropy_loss"] + 0.5 * log["train/value_loss"]
    assert model.last_losses.mean().item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("rule", ["sum", "r_weighted", "l_weighted"])
def test_recurrent_gradient_equals_one_backward_per_agent(rule: str) -> None:
    """Agent by agent through the LSTM: whole rollouts as sequences, cut where episodes end."""
    steps = 32
    model = AggRecurrentPPO(
        "MlpLstmPolicy",
        make_vec_env("CartPole-v1", 3, seed=5),
        aggregation=rule,
        n_steps=steps,
        batch_size=None,
        n_epochs=1,
        max_grad_norm=1e9,
        normalize_advantage=False,
        policy_kwargs={"lstm_hidden_size": 8},
        seed=5,
        device="cpu",
    )
    model.learn(3 * steps)
    errors = []

    def check(*_: Any) -> None:
        buffer, policy = model.rollout_buffer, model.policy
        losses, gradients = [], []
        for agent in range(3):
            own = np.arange(agent * steps, (agent + 1) * steps)
            starts = np.zeros((3 * steps, 1), dtype=np.float32)
            starts[own[0]] = 1
            data = type(buffer)._get_samples(buffer, own, starts)
            mask = data.mask > 0
            values, log_prob, _ = RecurrentActorCriticPolicy.evaluate_actions(
                policy, data.observations, data.actions.long().flatten(), data.lstm_states, data.episode_starts
            )
            ratio = (log_prob - data.old_log_prob).exp()
            surrogate = torch.min(data.advantages * ratio, data.advantages * ratio.clamp(0.8, 1.2))
            loss = (-surrogate + 0.5 * (data.returns - values.flatten()) ** 2)[mask].mean()
            losses.append(loss.item())
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))]))
        weights = torch.as_tensor(expected_weights(rule, np.array(losses), model.agent_returns)).float()
        expected = sum(w * g for w, g in zip(weights, gradients, strict=True))
        actual = torch.cat([p.grad.flatten() for p in policy.parameters()])
        errors.append(((actual - expected).norm() / expected.norm()).item())

    model.policy.optimizer.register_step_pre_hook(check)
    model.learn(3 * steps, reset_num_timesteps=False)
    assert len(errors) == 1
    assert errors[0] <= 1e-5
