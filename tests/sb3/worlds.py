"""Environments for tests, with known flaws where a test needs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv


def cartpoles(num_agents: int, seed: int = 0) -> VecEnv:
    return make_vec_env("CartPole-v1", num_agents, seed=seed)


class Walk(gym.Env[np.ndarray, int]):
    """A corridor of fixed length; every step pays ``reward``. ``reward`` may be NaN or infinite from ``broken_from`` on."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(
        self, length: int | None = 5, reward: float = 1.0, broken: float | None = None, broken_steps: range = range(0)
    ) -> None:
        self.length, self.reward, self.broken, self.broken_steps = length, reward, broken, broken_steps
        self.clock = self.position = 0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**kwargs)
        self.position = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self.reward if self.clock not in self.broken_steps or self.broken is None else self.broken
        self.clock += 1
        self.position += 1
        return self._observe(), reward, self.position == self.length, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.position / 10, np.sin(self.clock), np.cos(self.clock)], dtype=np.float32)


def walks(*settings: dict[str, Any], monitored: bool = True) -> VecEnv:
    """One Walk per argument."""

    def build(setting: dict[str, Any]) -> Callable[[], gym.Env]:
        return lambda: Monitor(Walk(**setting)) if monitored else Walk(**setting)

    return DummyVecEnv([build(setting) for setting in settings])
