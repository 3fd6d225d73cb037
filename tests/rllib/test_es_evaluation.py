"""RLlib evaluates what evolution strategies found, as agents act."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.connectors.env_to_module import FlattenObservations

from tests.rllib.populations import tiny_es
from tests.rllib.unlimited import Unlimited


def test_connectors_may_be_there_in_evaluation(ray_session: None) -> None:
    flattened = tiny_es().env_runners(env_to_module_connector=lambda env, spaces, device: FlattenObservations())
    algorithm = tiny_es().evaluation(evaluation_interval=1, evaluation_duration=2, evaluation_config=flattened).build_algo()
    assert algorithm.train()["evaluation"]["env_runners"]["num_episodes"] == 2
    algorithm.stop()


@pytest.mark.parametrize("env", [Unlimited, "CartPole-v1"])
def test_the_time_limit_holds_in_evaluation(env: Any, ray_session: None) -> None:
    config = tiny_es(max_episode_steps=5).environment(env)
    algorithm = config.evaluation(evaluation_interval=1, evaluation_config={"num_envs_per_env_runner": 3}).build_algo()
    evaluated = algorithm.train()["evaluation"]["env_runners"]
    assert (evaluated["episode_len_max"], evaluated["num_episodes"]) == (5, 10)
    algorithm.stop()
    other = config.copy(copy_frozen=False).evaluation(evaluation_config={"gym_env_vectorize_mode": "async"})
    with pytest.raises(ValueError, match="max_episode_steps=5 needs gym_env_vectorize_mode='sync'"):
        other.build_algo()


class Positive(Unlimited):
    """Takes actions of 0 and more, and pays for small ones."""

    action_space = gym.spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, 1]))

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return np.ones(2, np.float32), float(action[1] - action[0]), False, False, {}


class Narrow(Positive):
    """Takes actions between bounds."""

    action_space = gym.spaces.Box(np.float32([0, -2]), np.float32([2, 1]))


@pytest.mark.parametrize(
    ("env", "normalize"),
    [
        (Narrow, True),
        (Positive, False),
        pytest.param(Positive, True, marks=pytest.mark.slow),
        pytest.param(Narrow, False, marks=pytest.mark.slow),
    ],
)
def test_evaluation_acts_as_agents_do(env: Any, normalize: bool, ray_session: None) -> None:
    config = tiny_es(max_episode_steps=5).training(lr=1.0)
    algorithm = config.environment(env, normalize_actions=normalize).build_algo()
    for _ in range(5):
        algorithm.train()
    evaluated = algorithm.evaluate()["env_runners"]
    assert evaluated["episode_return_mean"] == pytest.approx(algorithm.train()["env_runners"]["server"]["episode_return_mean"])
    algorithm.stop()
