"""Vectorised environments of unequal agents."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from rl_agg.envs.disturbances import Disturbance, DisturbedReward, DisturbedSensors, make_unequal_env
from sb3_agg import AggPPO, make_unequal_vec_env

DISTURBANCES = [
    {"agents": [0], "broken_sensors": True},
    Disturbance([1], sensor_noise=0.1, reward_scale=3.0),
    {"agents": [2], "broken_reward": True},
]


def trace(env: VecEnv, steps: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Observations and rewards ``[T, A, ...]`` under the same actions."""
    observations, rewards = [env.reset()], []
    actions = np.random.default_rng(0).integers(0, 2, (steps, env.num_envs))
    for row in actions:
        observation, reward, _, _ = env.step(row)
        observations.append(observation.copy())
        rewards.append(reward.copy())
    env.close()
    return np.array(observations), np.array(rewards, dtype=np.float32)


def test_without_disturbances_it_is_sb3s() -> None:
    for one, other in zip(
        trace(make_unequal_vec_env("CartPole-v1", 3, [], seed=5)), trace(make_vec_env("CartPole-v1", 3, seed=5)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_each_agent_gets_its_own_and_no_more() -> None:
    observations, rewards = trace(make_unequal_vec_env("CartPole-v1", 4, DISTURBANCES, seed=5))
    plain_observations, plain_rewards = trace(make_vec_env("CartPole-v1", 4, seed=5))
    same = [np.array_equal(observations[:, agent], plain_observations[:, agent]) for agent in range(4)]
    assert same == [False, False, True, True]
    np.testing.assert_allclose(
        rewards, np.stack([*plain_rewards.T[:1], 3 * plain_rewards.T[1], rewards.T[2], plain_rewards.T[3]], 1)
    )
    assert not np.array_equal(rewards[:, 2], plain_rewards[:, 2])


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, SubprocVecEnv])
def test_a_seed_repeats_everything(vec_env_cls: Any) -> None:
    made = [
        make_unequal_vec_env("CartPole-v1", 2, DISTURBANCES[:2], seed=5, vec_env_cls=kind)
        for kind in (DummyVecEnv, vec_env_cls)
    ]
    first, again = (trace(env) for env in made)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(trace(make_unequal_vec_env("CartPole-v1", 2, DISTURBANCES[:2], seed=6))[0], first[0])


def test_equal_disturbances_of_two_agents_differ() -> None:
    observations, rewards = trace(
        make_unequal_vec_env("CartPole-v1", 2, [Disturbance([0, 1], broken_sensors=True, broken_reward=True)])
    )
    assert not np.array_equal(observations[:, 0], observations[:, 1])
    assert not np.array_equal(rewards[:, 0], rewards[:, 1])


def test_settings_reach_the_environments() -> None:
    disturbances = [{"agents": [1], "env_kwargs": {"gravity": -3.0}}, {"agents": [2], "env_kwargs": {"enable_wind": True}}]
    env = make_unequal_vec_env("LunarLander-v3", 3, disturbances, env_kwargs={"gravity": -8.0})
    assert env.get_attr("gravity") == [-8.0, -3.0, -8.0]
    assert env.get_attr("enable_wind") == [False, False, True]
    env.close()


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_sb3s_checker_finds_nothing(disturbance: Any) -> None:
    one = disturbance if isinstance(disturbance, Disturbance) else Disturbance(**disturbance)
    check_env(make_unequal_env("CartPole-v1", one.agents[0], [one]))


def test_monitor_is_outermost_so_that_returns_are_the_agents_own() -> None:
    env = make_unequal_vec_env("CartPole-v1", 3, [{"agents": [2], "reward_scale": 10.0}], seed=0)
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(DisturbedReward) == [False, False, True]
    assert env.env_is_wrapped(DisturbedSensors) == [False] * 3
    model = AggPPO("MlpPolicy", env, aggregation="r_weighted", n_steps=128, batch_size=48, seed=0, device="cpu").learn(384)
    assert model.agent_weights.argmax() == 2
    assert model.agent_returns[2] > 5 * model.agent_returns[:2].max()


def test_a_seeded_model_learns_the_same_from_the_same() -> None:
    found = []
    for _ in range(2):
        env = VecNormalize(make_unequal_vec_env("CartPole-v1", 3, DISTURBANCES, seed=1))
        model = AggPPO("MlpPolicy", env, aggregation="median", n_steps=16, batch_size=24, n_epochs=1, seed=4, device="cpu")
        model.learn(96)
        found.append(model.policy.state_dict()["value_net.weight"])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("disturbances", "message"),
    [
        ([{"agents": [3], "broken_reward": True}], "agent 3 cannot be disturbed: agents are numbered 0 to 2"),
        (
            [{"agents": [0], "noise": 1.0}],
            "a disturbance has no setting 'noise'; choose from agents, attributes, broken_reward",
        ),
        ([{"broken_reward": True}], "a disturbance needs 'agents', got {'broken_reward': True}"),
        ([{"agents": [0], "sensor_noise": -1.0}], "sensor_noise must be a finite number >= 0, got -1.0"),
        ([{"agents": [0], "mass_scale": 2.0}], "mass_scale needs one of MuJoCo's environments, got CartPole-v1"),
        (["broken"], "a disturbance must be a Disturbance or its settings, got 'broken'"),
    ],
)
def test_disturbances_are_refused(disturbances: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_unequal_vec_env("CartPole-v1", 3, disturbances)
