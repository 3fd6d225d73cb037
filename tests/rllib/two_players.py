"""A multi-agent environment in which one agent leaves early."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from ray import cloudpickle
from ray.rllib.env.multi_agent_env import MultiAgentEnv

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TwoPlayers(MultiAgentEnv):
    """Two agents, one of which leaves after two steps; rewards are 1 for one and 10 for the other."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.agents = self.possible_agents = ["one", "ten"]
        space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_spaces = dict.fromkeys(self.agents, space)
        self.action_spaces = dict.fromkeys(self.agents, gym.spaces.Discrete(2))

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.t = 0
        return {agent: np.zeros(2, np.float32) for agent in self.possible_agents}, {}

    def step(self, action_dict: dict[str, Any]) -> Any:
        self.t += 1
        gone, over = self.t >= 2, self.t >= 5
        rewards = {agent: {"one": 1.0, "ten": 10.0}[agent] for agent in action_dict}
        observations = {agent: np.full(2, self.t / 5, np.float32) for agent in action_dict}
        return observations, rewards, {"ten": gone, "__all__": over}, {"__all__": False}, {}


def gradients_by_module(learner: Any) -> dict[str, dict[str, Any]]:
    """What the last minibatch left in each module."""
    modules = {id_: learner.module[id_].unwrapped() for id_ in ("p_one", "p_ten")}
    return {id_: {name: p.grad.clone() for name, p in module.named_parameters()} for id_, module in modules.items()}
