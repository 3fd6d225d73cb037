"""SMAC and SMACv2: StarCraft II itself, installed by the user.

Axes: n agents, m enemies, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rl_agg.validation import check_choice, check_settings
from rllib_agg.envs.starcraft.contributions import Orders, Strength, contributions
from rllib_agg.envs.starcraft.install import SMAC, check_game, import_smac
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.envs.team.sequential import SequentialTeams, SingleStep, SingleView

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
"""Unit types of the mixed maps, in SMAC's order of the agents; the other maps have one type."""

GAME_ERRORS = ("pysc2", "websocket", "s2clientprotocol")
"""Packages whose errors mean that the game crashed and the program has no bug."""


class SmacTeam:
    """One game. A crash costs the episode, which is reported as lost; the next reset starts another game.

    :param make: Makes the environment from a seed.
    :param agent_types: ``[n]``; ``None``: all are ``unit``.
    :param credit: ``contribution`` or ``team``.
    :param credits: What its settings leave to choose from, except ``team``.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        *,
        agent_types: Sequence[str] | None = None,
        credit: str,
        credits: Collection[str] = ("contribution",),
    ) -> None:
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
            credits=frozenset(credits),
            has_wins=True,
        )

    def reset(self, seed: int) -> SingleView:
        """Begin an episode. Only the seed of the first reset counts: the game takes one when it starts."""
        try:
            return self._start(seed)
        except Exception as error:
            if not _is_game_error(error):
                raise
            self._abandon(error)
            return self._start(seed)

    def step(self, actions: Sequence[int]) -> SingleStep:
        """Step. The environment reports a time-out as an end; the battle has ended only if it says how."""
        before = self._strength()
        orders = self._orders(actions)
        try:
            reward, over, info = self._env.step([int(action) for action in actions])
        except Exception as error:
            if not _is_game_error(error):
                raise
            return self._lost(error)
        if over and "battle_won" not in info:
            return self._lost(None)
        after = self._strength()
        won = bool(info.get("battle_won", False))
        shaped = reward - self._bonus(won, over, after)
        credit = contributions(shaped, orders, before, after) if self._credit == "contribution" else None
        ended = over and self._is_decided(won, after)
        return SingleStep(self._view(), float(reward), credit, ended, over and not ended, won)

    def close(self) -> None:
        """Stop the game."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _start(self, seed: int) -> SingleView:
        if self._env is None:
            self._env = self._make(seed & 0x7FFFFFFF)
        self._env.reset()
        return self._view()

    def _view(self) -> SingleView:
        env = self._env
        masks = [env.get_avail_agent_actions(agent) for agent in range(self.spec.num_agents)]
        self._last = SingleView(
            np.asarray(env.get_obs(), dtype=np.float32),
            np.asarray(env.get_state(), dtype=np.float32),
            np.asarray(masks, dtype=np.bool_),
        )
        return self._last

    def _lost(self, error: Exception | None) -> SingleStep:
        self._abandon(error)
        nothing = np.zeros(self.spec.num_agents, dtype=np.float32) if self._credit == "contribution" else None
        return SingleStep(self._last, 0.0, nothing, truncated=True, lost=True)

    def _abandon(self, error: Exception | None) -> None:
        """Close the game: after a crash SMAC has restarted it, and its next reset would start yet another."""
        self.num_crashes += 1
        reason = f" ({type(error).__name__}: {error})" if error else ""
        logger.warning("StarCraft II crashed%s, %d times so far; the episode is discarded", reason, self.num_crashes)
        try:
            self.close()
        except Exception as closing:
            logger.warning("closing StarCraft II failed: %s", closing)
        self._env = None

    def _strength(self) -> Strength:
        env = self._env
        return Strength.of(env.agents, self.spec.num_agents, env.enemies, len(env.enemies), health="health")

    def _orders(self, actions: Sequence[int]) -> Orders:
        env = self._env
        targets = np.asarray(actions, dtype=np.int64) - env.n_actions_no_attack
        healers = {env.medivac_id} - {0}
        heals = [env.agents[agent].unit_type in healers for agent in range(self.spec.num_agents)]
        return Orders(targets, np.asarray(heals, dtype=np.bool_))

    def _is_decided(self, won: bool, after: Strength) -> bool:
        """Whether the battle has ended: won, or one side has no units left that can fight, which medivacs cannot."""
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


def make_smac(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> SequentialTeams:
    """Make E games of a map.

    :param settings: Arguments of SMAC's ``StarCraft2Env``.
    :raises ImportError: if SMAC is not installed, or not correctly.
    :raises StarCraftError: if the game or the map is missing.
    """
    check_credit(f"smac/{task}", credit, {"contribution"})
    module = import_smac("smac.env", SMAC)
    maps = importlib.import_module("smac.env.starcraft2.maps.smac_maps").get_smac_map_registry()
    check_choice("SMAC map", task, maps)
    check_settings(f"smac/{task}", module.StarCraft2Env.__init__, settings, given=2)
    check_shaped(settings, credit)
    check_game("smac", task)

    def make(seed: int) -> Any:
        return module.StarCraft2Env(map_name=task, **{"seed": seed, **settings})

    own: dict[str, Any] = {"agent_types": ARMIES.get(task), "credits": credits_of(settings)}
    return SequentialTeams(lambda _: SmacTeam(make, credit=credit, **own), num_envs, credit=credit, can_break=True)


def credits_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Credits that are possible except ``team``: none where the only reward is that for winning."""
    return () if settings.get("reward_sparse") else ("contribution",)


def check_shaped(settings: Mapping[str, Any], credit: str) -> None:
    """Raise ``ValueError`` if contributions are wanted, and the only reward is that for winning."""
    if credit == "contribution" and not credits_of(settings):
        raise ValueError("reward_sparse=True leaves no reward but that of winning to attribute; use credit='team'")


def _is_game_error(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in GAME_ERRORS
