"""An environment of one's own, whose agents differ: python examples/custom_environment.py [TOTAL_TIMESTEPS]"""

import sys

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggPPO


class Thermostat(gym.Env):
    """Keep a room at 20 degrees; in a leaky one the heater must work more, and rewards are lower."""

    def __init__(self, leak: float = 0.1):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)  # off, on
        self.leak = leak

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.degrees, self.steps = self.np_random.uniform(10.0, 30.0), 0
        return self._observation(), {}

    def step(self, action):
        self.degrees += 2.0 * int(action) - self.leak * (self.degrees - 10.0)
        self.steps += 1
        return self._observation(), -abs(self.degrees - 20.0), False, self.steps == 50, {}

    def _observation(self):
        return np.array([self.degrees - 20.0], np.float32)


leaks = iter([0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.3, 0.3])  # a room for each agent
env = make_vec_env(lambda: Thermostat(next(leaks)), n_envs=8, seed=0)
torch.set_num_threads(1)
model = AggPPO("MlpPolicy", env, aggregation="r_weighted", n_steps=250, seed=0, device="cpu")
model.learn(int((sys.argv[1:2] or [40_000])[0]))
print(f"returns {model.agent_returns.round()}; weights {model.agent_weights.round(2)}")
