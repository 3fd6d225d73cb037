"""VMAS: two-dimensional physics on batches of worlds.

Axes: E environments, n agents, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

import inspect
import pkgutil
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl_agg.validation import check_choice, check_count
from rllib_agg.envs.team.credits import check_actions, check_credit
from rllib_agg.envs.team.extras import import_extra
from rllib_agg.envs.team.interface import Bools, TeamSpec, TeamStep, TeamView
from rllib_agg.envs.team.named_agents import TEAM_REWARDS


class VmasTeams:
    """E worlds that step together. The state is all observations in a row.

    :param env: Of VMAS, with discrete actions.
    :param max_episode_steps: T.
    :param credit: ``env`` or ``team``.
    :param team_reward: The team's reward from the agents': ``sum`` or ``mean``.
    """

    def __init__(self, env: Any, max_episode_steps: int, *, credit: str, team_reward: str) -> None:
        self._env, self._credit, self._team_reward = env, credit, TEAM_REWARDS[team_reward]
        self.num_envs = env.num_envs
        counts = [space.n for space in env.action_space]
        sizes = [int(np.prod(space.shape)) for space in env.observation_space]
        n, d = len(counts), max(sizes)
        names = [agent.name.rstrip("0123456789").rstrip("_") for agent in env.agents]
        self.spec = TeamSpec(n, max(counts), d, n * d, max_episode_steps, tuple(names), credits=frozenset({"env"}))
        legal = np.arange(max(counts)) < np.array(counts)[:, None]
        self._masks = np.broadcast_to(legal, (self.num_envs, n, max(counts)))
        self._observations = np.zeros((self.num_envs, n, d), dtype=np.float32)
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._active = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        """Begin a new episode in some of the worlds, one by one, because VMAS has one seed for all worlds."""
        for index in np.flatnonzero(which).tolist():
            self._env.seed(int(seeds[index]) & 0xFFFFFFFF)  # NumPy's generator, seeded too, takes 32 bits
            self._env.reset_at(index, return_observations=False)
        if which.any():
            seen = self._env.get_from_scenario(
                get_observations=True, get_rewards=False, get_infos=False, get_dones=False, dict_agent_names=False
            )[0]
            self._observations[which] = self._padded(seen)[which]  # not the others': scenarios add noise
        self._steps[which], self._active[which] = 0, True
        return self._view()

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Step all worlds; results of those that are over are meaningless."""
        check_actions(actions, self._masks, self._active)
        chosen = torch.from_numpy(np.ascontiguousarray(actions.T))
        observations, rewards, terminated, _, _ = self._env.step([row[:, None].float() for row in chosen])
        self._observations = self._padded(observations)
        self._steps += self._active
        earned = torch.stack(rewards, dim=1).numpy()
        ended = terminated.numpy().astype(np.bool_)
        cut = ~ended & (self._steps >= self.spec.max_episode_steps)
        self._active &= ~(ended | cut)
        total = self._team_reward(earned, axis=1)
        return TeamStep(self._view(), total, earned if self._credit == "env" else None, ended, cut)

    def render(self) -> NDArray[np.uint8]:
        """Draw the first world ``[height, width, 3]`` with OpenGL; without a display with EGL."""
        picture: NDArray[np.uint8] = self._env.render(mode="rgb_array", env_index=0)
        return picture

    def close(self) -> None:
        """Nothing to release."""

    def _padded(self, observations: Any) -> NDArray[np.float32]:
        rows = np.zeros((self.num_envs, self.spec.num_agents, self.spec.observation_size), dtype=np.float32)
        for agent, seen in enumerate(observations):
            flat = seen.reshape(self.num_envs, -1).numpy()
            rows[:, agent, : flat.shape[1]] = flat
        return rows

    def _view(self) -> TeamView:
        return TeamView(self._observations.copy(), self._observations.reshape(self.num_envs, -1).copy(), self._masks.copy())


def make_vmas(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> VmasTeams:
    """Make E worlds of a scenario, as ``balance``.

    :param settings: ``max_episode_steps`` (default 100), ``team_reward`` (``sum``), and arguments of the scenario.
    """
    vmas = import_extra("vmas", "vmas")
    scenarios = import_extra("vmas.scenarios", "vmas")
    tasks = [module.name for module in pkgutil.walk_packages(scenarios.__path__)]
    check_choice("VMAS scenario", task, tasks)
    check_credit(f"vmas/{task}", credit, {"env"})
    settings = dict(settings)
    limit, team_reward = settings.pop("max_episode_steps", 100), settings.pop("team_reward", "sum")
    check_count("max_episode_steps", limit, least=1)
    check_choice("team_reward", team_reward, TEAM_REWARDS)
    ours = settings.keys() & (inspect.signature(vmas.make_env).parameters.keys() - {"kwargs"})
    if ours:
        raise ValueError(f"vmas/{task} has no setting {', '.join(map(repr, sorted(ours)))}; it takes the scenario's own")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Scenario kwargs")
        try:
            env = vmas.make_env(task, num_envs, continuous_actions=False, seed=0, terminated_truncated=True, **settings)
        except UserWarning as warning:
            raise ValueError(f"vmas/{task}: {warning}") from warning
    return VmasTeams(env, limit, credit=credit, team_reward=team_reward)
