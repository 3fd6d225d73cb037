"""An environment of the user's own, which workers import by its id: ``walks:rl_agg_tests/Walk-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Walk(gym.Env[Any, Any]):
    """Episodes of three steps that pay 1, 2 and 3, for whoever asks."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return np.zeros(2, np.float32), float(self._step), self._step == 3, False, {}


class Negated(gym.RewardWrapper[Any, Any]):
    """Pays what the walk costs."""

    def reward(self, reward: Any) -> float:
        return -float(reward)


gym.register("rl_agg_tests/Walk-v0", Walk, disable_env_checker=True)
