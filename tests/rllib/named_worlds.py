"""Environments with named agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv


class Corridor(MultiAgentEnv):
    """Two walkers go right (action 1) from 0 to ``length``, each paid 1 a step forwards, and leave there.

    The second joins ``late`` steps after the first. The first sees its place, the second its place twice, doubled, and has one
    action more, which is never legal at place 0.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        config = config or {}
        self.length, self.late, self.alone = config.get("length", 3), config.get("late", 0), config.get("alone", False)
        self.possible_agents = ["walker_0"] if self.alone else ["walker_0", "walker_1"]
        self.agents = list(self.possible_agents)
        second = gym.spaces.Dict({"observations": gym.spaces.Box(-1, 99, (2,)), "action_mask": gym.spaces.MultiBinary(3)})
        self.observation_spaces = {"walker_0": gym.spaces.Box(-1, 99, (1,)), "walker_1": second}
        self.action_spaces = {"walker_0": gym.spaces.Discrete(2), "walker_1": gym.spaces.Discrete(3, start=5)}
        self.received: list[dict[str, int]] = []
        self.stuck = bool(config.get("stuck", False))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time, self.places = 0, dict.fromkeys(self.possible_agents, 0)
        self.seed = seed
        return self._seen(self._present()), {}

    def step(self, action_dict: dict[str, int]) -> Any:
        self.received.append(dict(action_dict))
        before = self._present()
        self.time += 1
        rewards, ended = {}, {}
        for agent, action in action_dict.items():
            forwards = action - self.action_spaces[agent].start == 1
            self.places[agent] += forwards
            rewards[agent] = float(forwards)
            ended[agent] = self.places[agent] >= self.length
        seen = self._seen({*self._present(), *before})
        everyone = all(place >= self.length for place in self.places.values())
        return seen, rewards, {**ended, "__all__": everyone}, {"__all__": False}, {"walker_0": {"time": self.time}}

    def _present(self) -> set[str]:
        return {
            agent
            for agent in self.possible_agents
            if self.places[agent] < self.length and (agent == "walker_0" or self.time >= self.late)
        }

    def _seen(self, agents: set[str]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        if "walker_0" in agents:
            seen["walker_0"] = np.array([self.places["walker_0"]], dtype=np.float32)
        if "walker_1" in agents:
            place = self.places["walker_1"]
            free = not self.stuck and place < self.length  # at the end, nothing is legal
            mask = np.array([free, free, place > 0 and free], dtype=np.int8)
            seen["walker_1"] = {"observations": np.array([2 * place] * 2, dtype=np.float32), "action_mask": mask}
        return seen


class Lights:
    """A ParallelEnv by what it does: two lamps, action 1 switches one off for good, which pays 1; ``limit`` steps at most."""

    possible_agents = ("lamp_0", "lamp_1")
    max_episode_steps = 50

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.limit, self.has_state = config.get("limit", 4), config.get("has_state", True)

    def observation_space(self, agent: str) -> gym.Space[Any]:
        return gym.spaces.Discrete(2)

    def action_space(self, agent: str) -> gym.Space[Any]:
        return gym.spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.time = list(self.possible_agents), 0
        return self._seen(), {agent: {"action_mask": [1, 1]} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        assert set(actions) == set(self.agents)
        self.time += 1
        acting = self.agents
        off = {agent: actions[agent] == 1 for agent in acting}
        cut = {agent: not off[agent] and self.time >= self.limit for agent in acting}
        seen = {agent: int(not off[agent]) for agent in acting}
        self.agents = [agent for agent in acting if not off[agent] and not cut[agent]]
        rewards = {agent: float(off[agent]) for agent in acting}
        return seen, rewards, off, cut, {agent: {"action_mask": [1, 1]} for agent in acting}

    def state(self) -> Any:
        if not self.has_state:
            raise NotImplementedError
        return np.array([self.time, len(self.agents)])

    def close(self) -> None:
        self.agents = []

    def _seen(self) -> dict[str, int]:
        return dict.fromkeys(self.agents, 1)
