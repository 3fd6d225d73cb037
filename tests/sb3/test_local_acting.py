"""Agents act by their own parameters; the policy is their average."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO
from tests.sb3.flattened import flat
from tests.sb3.local_runs import AGENTS, NET, STEPS, build, copies, learn, own_state, write
from tests.sb3.worlds import Walk, cartpoles


class Push(Walk):
    """A corridor with continuous actions."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)


class OwnPolicy(ActorCriticPolicy):
    """Of unknown origin, so that it goes through vmap."""


class RolloutSpy(BaseCallback):
    """Notes what ended episodes, and the last observation."""

    def _on_step(self) -> bool:
        for agent, info in enumerate(self.locals["infos"]):
            if info.get("TimeLimit.truncated"):
                self.ends.append((self.step, agent, info["terminal_observation"]))
        self.step += 1
        self.last = self.locals["new_obs"].copy()
        self.dones = self.locals["dones"].copy()
        return True

    def _on_rollout_start(self) -> None:
        self.step, self.ends = 0, []

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.seen = {
            name: getattr(buffer, name).copy() for name in ("observations", "actions", "values", "log_probs", "rewards")
        }
        self.seen["advantages"] = buffer.advantages.copy()
        self.seen["starts"] = buffer.episode_starts.copy()


@pytest.mark.parametrize("kind", [Walk, Push])
@pytest.mark.parametrize("policy", ["MlpPolicy", OwnPolicy])
@pytest.mark.parametrize("scheme", ["actor_sum", "fedavg"])
def test_each_agent_acts_by_its_own_parameters(scheme: str, policy: Any, kind: Any) -> None:
    """Actions, values, and the values that rewards and advantages are bootstrapped with."""
    limits = [5, 5, 7]  # two agents are cut off at once
    env = DummyVecEnv([lambda n=n: Monitor(gym.wrappers.TimeLimit(kind(length=None), n)) for n in limits])
    settings = {"n_steps": 16, "batch_size": None, "learning_rate": 0.05, "seed": 0, "device": "cpu", "policy_kwargs": NET}
    kwargs = {"interval": 9} if scheme == "fedavg" else {}
    model = AggPPO(policy, env, aggregation=scheme, aggregation_kwargs=kwargs, **settings)
    learn(model)  # apart
    before, spy = copies(model), RolloutSpy()
    learn(model, callback=spy, reset_num_timesteps=False)
    rewards, advantages = np.ones((16, 3), np.float32), np.zeros((16, 3), np.float32)
    merged = write(copy.deepcopy(model.policy), before.mean(0))
    assert len(spy.ends) == 8
    for agent, row in enumerate(before):
        alone = write(copy.deepcopy(model.policy), row)
        observations = torch.as_tensor(spy.seen["observations"][:, agent])
        actions = torch.as_tensor(spy.seen["actions"][:, agent])
        actions = actions.flatten() if kind is Walk else actions
        with torch.no_grad():
            values, log_prob, _ = alone.evaluate_actions(observations, actions)
            others, other_log_prob, _ = merged.evaluate_actions(observations, actions)
            last = alone.predict_values(torch.as_tensor(spy.last[agent : agent + 1])).item()
            for step, whose, observation in spy.ends:
                if whose == agent:
                    rewards[step, agent] += 0.99 * alone.predict_values(torch.as_tensor(observation[None])).item()
        np.testing.assert_allclose(spy.seen["log_probs"][:, agent], log_prob, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(spy.seen["values"][:, agent], values.flatten(), rtol=1e-4, atol=1e-5)
        assert np.abs(spy.seen["values"][:, agent] - others.flatten().numpy()).max() > 1e-3
        assert np.abs(spy.seen["log_probs"][:, agent] - other_log_prob.numpy()).max() > 1e-4
        advantage, following = 0.0, last
        ends = np.append(spy.seen["starts"][1:, agent], spy.dones[agent])
        for step in reversed(range(16)):
            delta = rewards[step, agent] + 0.99 * following * (1 - ends[step]) - values[step].item()
            advantage = delta + 0.99 * 0.95 * (1 - ends[step]) * advantage
            advantages[step, agent], following = advantage, values[step].item()
    np.testing.assert_allclose(spy.seen["rewards"], rewards, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(spy.seen["advantages"], advantages, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cls", [AggPPO, AggA2C])
@pytest.mark.parametrize("settings", [{}, {"same_init": False}], ids=str)
@pytest.mark.filterwarnings("ignore:.* acts by gSDE", "ignore:.*batch_size", "ignore:You have specified a mini-batch")
def test_each_agent_explores_by_its_own_deviations(cls: Any, settings: dict[str, Any]) -> None:
    """gSDE: noise is a linear map of features, drawn at the start of a rollout; the first agent has next to none."""
    env = DummyVecEnv([lambda: Monitor(Push(length=9))] * 3)
    own = {"n_steps": 12, "learning_rate": 0.01, "seed": 0, "device": "cpu", "policy_kwargs": dict(NET), "use_sde": True}
    model = cls("MlpPolicy", env, aggregation="actor_mean", aggregation_kwargs=settings, **own)
    learn(model)
    assert next(model.policy.parameters()) is model.policy.log_std  # so it comes first in a copy
    model._local_models.copies[0, : model.policy.log_std.numel()] = -30.0
    before, spy = copies(model), RolloutSpy()
    learn(model, callback=spy, reset_num_timesteps=False)
    noises = []
    for agent, row in enumerate(before):
        alone = write(cls("MlpPolicy", env, **own).policy, row)
        observations = torch.as_tensor(spy.seen["observations"][:, agent])
        actions = torch.as_tensor(spy.seen["actions"][:, agent])
        with torch.no_grad():
            _, log_prob, _ = alone.evaluate_actions(observations, actions)
            means = alone.get_distribution(observations).mode()
            features = alone.mlp_extractor.forward_actor(alone.extract_features(observations))
        np.testing.assert_allclose(spy.seen["log_probs"][:, agent], log_prob, rtol=1e-4, atol=1e-4)
        noises.append((actions - means).norm().item())
        matrix = torch.linalg.lstsq(features, actions - means).solution
        torch.testing.assert_close(features @ matrix, actions - means, rtol=1e-3, atol=1e-4)
    assert noises[0] < 1e-5
    assert min(noises[1:]) > 0.01


def test_actions_follow_the_agents_own_networks() -> None:
    """Three agents that each insist on an action of their own."""

    class Choice(Walk):
        action_space = spaces.Discrete(3)

    env = DummyVecEnv([lambda: Monitor(Choice())] * 3)
    model = build("actor_sum", env=env)
    learn(model)
    state = model.get_parameters()
    rows = own_state(state)["copies"]
    names = [name for name, _ in model.policy.named_parameters()]
    start = sum(dict(model.policy.named_parameters())[name].numel() for name in names[: names.index("action_net.bias")])
    for agent in range(3):
        rows[agent, start + agent] = 100.0
    model.set_parameters(state)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, STEPS)
    assert (model.rollout_buffer.actions[:, :, 0] == [0, 1, 2]).all()


def test_masks_bind_agents_with_parameters_of_their_own() -> None:
    env = make_vec_env(lambda: InvalidActionEnvDiscrete(dim=8, n_invalid_actions=4), n_envs=4)
    settings = {"n_steps": 16, "batch_size": None, "seed": 0, "device": "cpu", "aggregation_kwargs": {"same_init": False}}
    buffer = AggMaskablePPO("MlpPolicy", env, aggregation="actor_mean", **settings).learn(64).rollout_buffer
    allowed = buffer.action_masks.reshape(64, 8)
    assert (allowed.sum(1) == 4).all()
    assert allowed[np.arange(64), buffer.actions.flatten().astype(int)].all()


def test_the_policy_is_the_average_while_agents_act(tmp_path: Path) -> None:
    """An evaluation in the middle of a rollout asks the average, not an agent, and a checkpoint holds both."""
    model = build("actor_sum", learning_rate=0.05)
    learn(model, 2)
    merged = copy.deepcopy(model.policy)
    observations = np.random.default_rng(0).normal(size=(AGENTS, 4)).astype(np.float32)
    answers = []

    class Ask(BaseCallback):
        def _on_step(self) -> bool:
            answers.append(self.model.policy.get_distribution(torch.as_tensor(observations)).distribution.logits)
            return True

    evaluation = EvalCallback(cartpoles(1), eval_freq=16, n_eval_episodes=1, verbose=0)
    checkpoints = CheckpointCallback(16, str(tmp_path))
    before = copies(model)
    learn(model, callback=[Ask(), evaluation, checkpoints])
    saved = AggPPO.load(next(tmp_path.glob("*.zip")), env=cartpoles(AGENTS), device="cpu")
    assert torch.equal(copies(saved), before)
    assert torch.equal(flat(saved.policy), flat(merged))
    expected = merged.get_distribution(torch.as_tensor(observations)).distribution.logits
    assert all(torch.equal(answer, expected) for answer in answers)
    assert {"forward", "predict_values"}.isdisjoint(vars(model.policy))
    assert evaluate_policy(model, cartpoles(1), n_eval_episodes=1)[0] > 0
