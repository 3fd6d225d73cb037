"""SMAC and SMACv2: StarCraft II itself, installed by the user.

Axes: n agents, m enemies, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rl_agg.validation import check_settings, unknown_choice
from rllib_agg.envs.starcraft.credit import Orders, Strength, contributions
from rllib_agg.envs.starcraft.install import SMAC, check_game, import_smac
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.listed import ListedTeams, Outcome, Seen
from rllib_agg.envs.team.team import TeamSpec

logger = logging.getLogger(__name__)

ARMIES = {
    "1c3s5z": ("colossus",) * 1 + ("stalker",) * 3 + ("zealot",) * 5,
    "2s3z": ("stalker",) * 2 + ("zealot",) * 3,
    "3s5z": ("stalker",) * 3 + ("zealot",) * 5,
    "3s5z_vs_3s6z": ("stalker",) * 3 + ("zealot",) * 5,
    "MMM": ("marauder",) * 2 + ("marine",) * 7 + ("medivac",),
    "MMM2": ("marauder",) * 2 + ("marine",) * 7 + ("medivac",),
    "bane_vs_bane": ("baneling",) * 4 + ("zergling",) * 20,
}
"""Unit types of the mixed maps, in the order in which SMAC numbers the agents; the other maps have one type."""

GAME_ERRORS = ("pysc2", "websocket", "s2clientprotocol")
"""Packages whose errors mean that the game broke, not the program."""


class SmacTeam:
    """One game. Every crash of it costs the episode: it is told as lost, and the next reset starts another game.

    :param make: Makes the environment from a seed.
    :param agent_types: ``[n]``; ``None``: all are ``unit``.
    :param credit: ``contribution`` or ``team``.
    """

    def __init__(self, make: Callable[[int], Any], *, agent_types: Sequence[str] | None, credit: str) -> None:
        self._make, self._credit = make, credit
        self._env: Any = None
        self.num_crashes = 0
        info = make(0).get_env_info()  # starts no game
        n = int(info["n_agents"])
        self.spec = TeamSpec(
            num_agents=n,
            num_actions=int(info["n_actions"]),
            observation_size=int(info["obs_shape"]),
            state_size=int(info["state_shape"]),
            max_episode_steps=int(info["episode_limit"]),
            agent_types=tuple(agent_types or ("unit",) * n),
            credits=frozenset({"contribution"}),
            has_wins=True,
        )

    def reset(self, seed: int) -> Seen:
        """Begin an episode. The game takes a seed only when it starts, from the first reset; later ones go on from there."""
        for attempt in (1, 2):
            if self._env is None:
                self._env = self._make(seed & 0x7FFFFFFF)
            try:
                self._env.reset()
                return self._look()
            except Exception as error:
                if attempt == 2 or not _is_of_the_game(error):
                    raise
                self._give_up(error)
        raise AssertionError("unreachable")

    def step(self, actions: Sequence[int]) -> Outcome:
        """Step on. The environment calls a time-out an end too; it is one only if it says how the battle ended."""
        before = self._strength()
        orders = self._orders(actions)
        try:
            reward, over, info = self._env.step([int(action) for action in actions])
        except Exception as error:
            if not _is_of_the_game(error):
                raise
            return self._lost(error)
        if over and "battle_won" not in info:
            return self._lost(None)
        after = self._strength()
        won = bool(info.get("battle_won", False))
        shaped = reward - self._bonus(won, over, after)
        credit = contributions(shaped, orders, before, after) if self._credit == "contribution" else None
        ended = over and self._is_decided(won, after)
        return Outcome(self._look(), float(reward), credit, ended, over and not ended, won)

    def close(self) -> None:
        """Stop the game."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _look(self) -> Seen:
        env = self._env
        masks = [env.get_avail_agent_actions(agent) for agent in range(self.spec.num_agents)]
        self._last = Seen(
            np.asarray(env.get_obs(), dtype=np.float32),
            np.asarray(env.get_state(), dtype=np.float32),
            np.asarray(masks, dtype=np.bool_),
        )
        return self._last

    def _lost(self, error: Exception | None) -> Outcome:
        self._give_up(error)
        nothing = np.zeros(self.spec.num_agents, dtype=np.float32) if self._credit == "contribution" else None
        return Outcome(self._last, 0.0, nothing, truncated=True, lost=True)

    def _give_up(self, error: Exception | None) -> None:
        """Close the game: what SMAC has restarted by itself would be started once more, and left behind, by its reset."""
        self.num_crashes += 1
        told = f" ({type(error).__name__}: {error})" if error else ""
        logger.warning("StarCraft II crashed%s, %d times so far; the episode is thrown away", told, self.num_crashes)
        try:
            self.close()
        except Exception as closing:
            logger.warning("and could not be closed: %s", closing)
        self._env = None

    def _strength(self) -> Strength:
        sides = (self._env.agents, self._env.enemies)
        sizes = (self.spec.num_agents, len(self._env.enemies))
        told = []
        for units, size in zip(sides, sizes, strict=True):
            row = np.zeros(size)
            for number, unit in units.items():
                row[number] = unit.health + unit.shield if unit.health > 0 else 0.0
            told.append(row)
        return Strength(*told)

    def _orders(self, actions: Sequence[int]) -> Orders:
        env = self._env
        targets = np.asarray(actions, dtype=np.int64) - env.n_actions_no_attack
        healers = {env.medivac_id} - {0}
        heals = [env.agents[agent].unit_type in healers for agent in range(self.spec.num_agents)]
        return Orders(targets, np.asarray(heals, dtype=np.bool_))

    def _is_decided(self, won: bool, after: Strength) -> bool:
        """Whether a battle is over by itself: won, or nobody is left, or only medivacs on one side, which cannot fight."""
        if won or not after.enemies.any():
            return True
        medivac = self._env.medivac_id
        fighting = [unit for unit in self._env.agents.values() if unit.health > 0 and unit.unit_type != (medivac or None)]
        return not fighting

    def _bonus(self, won: bool, over: bool, after: Strength) -> float:
        env = self._env
        decided = over and self._is_decided(won, after)
        bonus = env.reward_win if won else env.reward_defeat if decided and after.enemies.any() else 0.0
        return float(bonus * env.reward_scale_rate / env.max_reward if env.reward_scale else bonus)


def make_smac(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> ListedTeams:
    """Make E games of a map.

    :param settings: Arguments of SMAC's ``StarCraft2Env``.
    :raises ImportError: if SMAC is not installed as it must be.
    :raises StarCraftError: if the game or the map is missing.
    """
    check_credit(f"smac/{task}", credit, {"contribution"})
    module = import_smac("smac.env", SMAC)
    maps = importlib.import_module("smac.env.starcraft2.maps.smac_maps").get_smac_map_registry()
    if task not in maps:
        raise unknown_choice("SMAC map", task, maps)
    check_settings(f"smac/{task}", module.StarCraft2Env.__init__, settings, given=2)
    check_scaled(settings, credit)
    check_game("smac", task)

    def make(seed: int) -> Any:
        return module.StarCraft2Env(map_name=task, **{"seed": seed, **settings})

    return list_games(make, num_envs, credit=credit, agent_types=ARMIES.get(task))


def list_games(make: Callable[[int], Any], num_envs: int, *, credit: str, agent_types: Collection[str] | None) -> ListedTeams:
    """Make E games that may crash."""
    types = None if agent_types is None else tuple(agent_types)
    return ListedTeams(lambda _: SmacTeam(make, agent_types=types, credit=credit), num_envs, credit=credit, can_break=True)


def check_scaled(settings: Mapping[str, Any], credit: str) -> None:
    """Refuse a credit for what is not there.

    :raises ValueError: if the reward is only that of winning.
    """
    if credit == "contribution" and settings.get("reward_sparse"):
        raise ValueError("with reward_sparse=True nobody contributes to anything but the win; use credit='team'")


def _is_of_the_game(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in GAME_ERRORS
