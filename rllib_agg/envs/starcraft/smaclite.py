"""SMAClite: SMAC's battles without StarCraft II, installed by the user, as its licence does not allow to distribute it.

Axes: n agents, m enemies, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_choice, check_count, check_settings
from rllib_agg.envs.starcraft.contributions import Orders, Strength, contributions
from rllib_agg.envs.starcraft.time_limits import TIME_LIMITS
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.envs.team.sequential import SequentialTeams, SingleStep, SingleView

REMEDY = "pip install git+https://github.com/uoe-agents/smaclite.git"

NO_ATTACK = 6
"""Number of actions before those on units."""

WIN = 200.0
"""Unscaled reward of winning."""

OTHER_LIMIT = 200
"""Time limit of maps that SMAC has not."""

SETTINGS = {"max_episode_steps", "render_mode", "seed", "use_cpp_rvo2"}


class SmacliteTeam:
    """One battle of SMAClite's, of at most T steps; the credit is ``contribution`` or ``team``."""

    def __init__(self, env: Any, max_episode_steps: int, *, credit: str) -> None:
        self._env, self._credit = env, credit
        env.reset(seed=0)
        self._healers = {number for number, unit in env.agents.items() if unit.combat_type.name == "HEALING"}
        self.spec = TeamSpec(
            num_agents=env.n_agents,
            num_actions=env.n_actions,
            observation_size=env.obs_size,
            state_size=env.state_size,
            max_episode_steps=max_episode_steps,
            agent_types=tuple(env.agents[number].type.stats.name.lower() for number in range(env.n_agents)),
            credits=frozenset({"contribution"}),
            has_wins=True,
        )

    def reset(self, seed: int) -> SingleView:
        """Begin an episode."""
        observations, info = self._env.reset(seed=seed)
        return self._view(observations, info)

    def step(self, actions: Sequence[int]) -> SingleStep:
        """Step; the environment takes Python integers only."""
        before = self._strength()
        observations, reward, over, _, info = self._env.step([int(action) for action in actions])
        after = self._strength()
        won = bool(over and not after.enemies.any())
        credit = None
        if self._credit == "contribution":
            heals = np.array([number in self._healers for number in range(self.spec.num_agents)])
            orders = Orders(np.asarray(actions, dtype=np.int64) - NO_ATTACK, heals)
            bonus = WIN / (self._env.max_reward / 20) if won else 0.0
            credit = contributions(reward - bonus, orders, before, after)
        return SingleStep(self._view(observations, info), float(reward), credit, bool(over), won=won)

    def render(self) -> NDArray[np.uint8]:
        """Draw it ``[height, width, 3]``."""
        picture: NDArray[np.uint8] = self._env.render()
        return picture

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _view(self, observations: Any, info: Mapping[str, Any]) -> SingleView:
        return SingleView(
            np.asarray(observations, dtype=np.float32),
            np.asarray(info["state"], dtype=np.float32),
            np.asarray(info["avail_actions"], dtype=np.bool_),
        )

    def _strength(self) -> Strength:
        env = self._env
        return Strength.of(env.agents, env.n_agents, env.enemies, env.n_enemies, health="hp")


def make_smaclite(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> SequentialTeams:
    """Make E battles of a map.

    :param settings: ``max_episode_steps`` (default: SMAC's), and arguments of its environment, as ``use_cpp_rvo2``.
    :raises ImportError: if SMAClite is not installed.
    """
    if importlib.util.find_spec("smaclite") is None:
        raise ImportError(f"the backend smaclite needs smaclite, which is not on PyPI: {REMEDY}")
    importlib.import_module("smaclite")
    environment = importlib.import_module("smaclite.env").SMACliteEnv
    known = {name.removeprefix("smaclite/").removesuffix("-v0"): name for name in gym.registry if name.startswith("smaclite/")}
    known.pop("custom", None)
    check_choice("SMAClite map", task, known)
    check_credit(f"smaclite/{task}", credit, {"contribution"})
    settings = {"render_mode": "rgb_array", "max_episode_steps": TIME_LIMITS.get(task.lower(), OTHER_LIMIT), **settings}
    limit = settings.pop("max_episode_steps")
    check_count("max_episode_steps", limit, least=1)
    check_settings(f"smaclite/{task}", lambda: None, settings, also=SETTINGS)
    arguments = {**gym.spec(known[task]).kwargs, **settings}
    return SequentialTeams(lambda _: SmacliteTeam(environment(**arguments), limit, credit=credit), num_envs, credit=credit)
