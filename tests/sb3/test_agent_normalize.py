"""Rewards normalised by agent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_agg import AgentVecNormalize, AggPPO, make_unequal_vec_env
from tests.sb3.worlds import cartpoles

SCALES = [{"agents": [0], "reward_scale": 0.1}, {"agents": [2], "reward_scale": 10.0}]


def scaled() -> DummyVecEnv:
    return make_unequal_vec_env("CartPole-v1", 3, SCALES, seed=3)  # type: ignore[return-value]


def rewards(env: VecNormalize, steps: int) -> np.ndarray:
    """``[steps, A]``, of the same actions each time."""
    actions = np.random.default_rng(0).integers(2, size=(steps, env.num_envs))
    env.reset()
    return np.array([env.step(each)[1] for each in actions])


def test_each_agent_as_if_it_were_alone() -> None:
    """Against stock's wrapper around one environment at a time."""
    together = AgentVecNormalize(scaled(), norm_obs=False, gamma=0.9)
    found = rewards(together, 200)
    actions = np.random.default_rng(0).integers(2, size=(200, 3))
    for agent, scale in enumerate((0.1, 1.0, 10.0)):
        alone = VecNormalize(
            make_unequal_vec_env("CartPole-v1", 1, [{"agents": [0], "reward_scale": scale}], seed=3 + agent),
            norm_obs=False,
            gamma=0.9,
        )
        alone.reset()
        np.testing.assert_allclose(found[:, agent], [alone.step(each[[agent]])[1][0] for each in actions], rtol=1e-6)


def test_stock_keeps_what_ours_takes_away() -> None:
    """The largest reward scale is a hundred times the smallest, or the same."""
    stock, ours = (rewards(wrap(scaled(), norm_obs=False), 300)[-50:].mean(0) for wrap in (VecNormalize, AgentVecNormalize))
    assert stock[2] / stock[0] == pytest.approx(100, rel=1e-3)
    assert ours[2] / ours[0] < 2


def test_saved_statistics_go_on_with_as_many_agents_and_evaluate_with_one(tmp_path: Path) -> None:
    env = AgentVecNormalize(scaled(), gamma=0.9)
    model = AggPPO("MlpPolicy", env, aggregation="r_weighted", n_steps=32, batch_size=96, device="cpu").learn(96)
    env.save(str(tmp_path / "statistics"))
    loaded = AgentVecNormalize.load(str(tmp_path / "statistics"), scaled())
    np.testing.assert_array_equal(loaded.agent_rms.var, env.agent_rms.var)
    np.testing.assert_array_equal(loaded.obs_rms.mean, env.obs_rms.mean)
    np.testing.assert_allclose(loaded.unnormalize_reward(loaded.normalize_reward(np.full(3, 0.1))), 0.1, rtol=1e-6)

    alone = AgentVecNormalize.load(str(tmp_path / "statistics"), cartpoles(1, 1))
    alone.training = alone.norm_reward = False
    assert evaluate_policy(model, alone, n_eval_episodes=1)[0] > 0
    alone.norm_reward = True
    alone.reset()
    with pytest.raises(ValueError, match=r"each of 3 agents has a reward scale of its own, got rewards of shape \(1,\)"):
        alone.step(np.array([0]))


def test_stocks_wrapper_evaluates() -> None:
    """With rewards normalised too, by the statistic over all agents that it copies."""
    env = AgentVecNormalize(scaled())
    evaluated = EvalCallback(VecNormalize(cartpoles(1, 1), training=False), eval_freq=16, n_eval_episodes=1, verbose=0)
    AggPPO("MlpPolicy", env, n_steps=32, batch_size=96, device="cpu").learn(96, callback=evaluated)
    assert evaluated.last_mean_reward > 0


def test_a_replay_buffer_is_refused() -> None:
    """It normalises the rewards of samples, of which it does not say whose they are."""
    env = AgentVecNormalize(make_vec_env("Pendulum-v1", 3))
    model = SAC("MlpPolicy", env, learning_starts=3, buffer_size=30, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="use VecNormalize with a replay buffer"):
        model.learn(30)


def test_a_file_of_stocks_wrapper_is_refused(tmp_path: Path) -> None:
    VecNormalize(scaled()).save(str(tmp_path / "statistics"))
    with pytest.raises(ValueError, match=r"holds a VecNormalize, which has no reward scale of each agent; open it with"):
        AgentVecNormalize.load(str(tmp_path / "statistics"), scaled())
