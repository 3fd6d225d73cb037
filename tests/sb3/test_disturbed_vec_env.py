"""Disturbances of vectorised environments whose sub-environments step together."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_agg import AggPPO, DisturbedVecEnv, EnvPoolVecEnv

AGENTS = 4
DISTURBANCES: list[dict[str, Any]] = [
    {"agents": [0], "broken_sensors": True},
    {"agents": [1], "reward_scale": 3.0},
    {"agents": [2], "endless": True},
]


def plain(kind: str) -> VecEnv:
    if kind == "gymnasium":
        return make_vec_env("CartPole-v1", AGENTS, seed=3)
    pytest.importorskip("envpool", reason="the extra envpool is not installed")
    return EnvPoolVecEnv("CartPole-v1", AGENTS, seed=3)


def steps(env: VecEnv, number: int = 120) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]]:
    """What is seen under the same actions."""
    actions = np.random.default_rng(0).integers(0, 2, (number, AGENTS))
    first = env.reset().copy()
    found = [(first, np.zeros(AGENTS), np.zeros(AGENTS, dtype=bool), [{}] * AGENTS)]
    for row in actions:
        observations, rewards, over, infos = env.step(row)
        found.append((observations.copy(), rewards.copy(), over.copy(), infos))
    return found


@pytest.mark.parametrize("kind", ["gymnasium", "envpool"])
def test_each_agent_experiences_its_own_disturbance_and_no_other(kind: str) -> None:
    disturbed, undisturbed = steps(DisturbedVecEnv(plain(kind), DISTURBANCES, seed=0)), steps(plain(kind))
    episodes = np.zeros(AGENTS, dtype=int)
    returns = np.zeros(AGENTS)
    for (observations, rewards, over, infos), (true, paid, ended, known) in zip(disturbed, undisturbed, strict=True):
        np.testing.assert_array_equal(observations[1:], true[1:])
        assert not np.array_equal(observations[0], true[0])
        np.testing.assert_array_equal(rewards, paid * [1, 3, 1, 1])
        assert over.tolist() == [ended[0], ended[1], False, ended[3]]
        returns += rewards
        assert infos[2] == {}
        for agent in np.flatnonzero(over):
            assert infos[agent]["episode"]["r"] == pytest.approx(returns[agent])
            assert infos[agent]["episode"]["l"] == known[agent]["episode"]["l"]
            same = np.array_equal(infos[agent]["terminal_observation"], known[agent]["terminal_observation"])
            assert same == (agent != 0)
            assert infos[agent]["TimeLimit.truncated"] == known[agent]["TimeLimit.truncated"]
            returns[agent] = 0
            episodes[agent] += 1
    assert min(episodes[[0, 1, 3]]) >= 2
    assert sum(ended[2] for _, _, ended, _ in undisturbed) >= 2


def test_a_seed_repeats_everything() -> None:
    env = DisturbedVecEnv(plain("gymnasium"), [{"agents": [0], "broken_sensors": True}, {"agents": [1], "sensor_noise": 0.1}])
    runs = []
    for seed in (5, 5, 6):
        env.seed(seed)
        runs.append(np.stack([observations for observations, *_ in steps(env, 20)]))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][:, 1], runs[2][:, 1])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="agent 4 cannot be disturbed: agents are numbered 0 to 3"):
        DisturbedVecEnv(plain("gymnasium"), [{"agents": [4], "endless": True}])
    with pytest.raises(ValueError, match="mass_scale cannot differ among environments that step together"):
        DisturbedVecEnv(plain("gymnasium"), [{"agents": [0], "mass_scale": 2.0}])


def test_agents_whose_episodes_never_end_report_no_return() -> None:
    env = DisturbedVecEnv(plain("gymnasium"), [{"agents": [2], "endless": True}], seed=0)
    assert all(env.env_is_wrapped(Monitor))
    model = AggPPO("MlpPolicy", env, aggregation="r_weighted", n_steps=128, batch_size=64, seed=0).learn(512)
    assert np.isnan(model.agent_returns).tolist() == [False, False, True, False]
    others = np.delete(model.agent_weights, 2)
    assert others.min() < model.agent_weights[2] < others.max()  # it counts as the mean of those who report


def test_returns_that_nobody_reports_cannot_be_changed() -> None:
    env = DisturbedVecEnv(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2), [{"agents": [0], "reward_scale": 2.0}])
    with pytest.raises(ValueError, match=r"agent 0 ended without a return, .* VecMonitor"):
        steps(env, 60)


def test_observations_of_several_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"disturbs arrays, and observations are Dict\(.*make_unequal_vec_env"):
        DisturbedVecEnv(DummyVecEnv([BitFlippingEnv] * 2), [{"agents": [0], "reward_scale": 2.0}])
