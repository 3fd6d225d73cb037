"""SMAX, JaxMARL's StarCraft-like battles: all copies in one compiled step.

Its win rates are SMAX's: the enemies are its own heuristic, and there are no shields, medivacs or terrain. Axes: E
environments, n agents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_settings
from rllib_agg.envs.smax.compiled import CompiledBattles, check_world, compiled_battles, keys_of, make_world
from rllib_agg.envs.team.credits import check_actions, check_credit
from rllib_agg.envs.team.interface import Bools, TeamSpec, TeamStep, TeamView


class SmaxTeams:
    """E battles that step together; ``compiled`` is shared by all users of this map in this process."""

    def __init__(self, compiled: CompiledBattles, num_envs: int, *, credit: str) -> None:
        import jax

        self.num_envs, self.compiled, self.world = num_envs, compiled, compiled.world
        self._jax, self.credit = jax, credit
        self.spec = team_spec(self.world.env)
        self._active = np.zeros(num_envs, dtype=np.bool_)
        self.battles, self._views = compiled.start
        self._view()
        self.filmed: list[Any] | None = None
        self._ending: tuple[Any, bool] = (None, False)

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        """Begin new battles in some of the copies, each from its own seed."""
        which = np.asarray(which, dtype=np.bool_)
        self.battles, self._views = self.compiled.reset(self.battles, self._views, which, keys_of(seeds))
        self._active |= which
        if self.filmed is not None and which[0]:
            self.filmed = []
        return self._view()

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Step all battles; results of those that are over are meaningless."""
        check_actions(actions, self._masks, self._active)
        self.battles, self._views, result, moves = self.compiled.step(self.battles, actions.astype(np.int32))
        if self.filmed is not None and self._active[0]:
            self.filmed.append(self._jax.tree.map(lambda of_all: of_all[0], tuple(moves)))
        rewards, contributions, terminated, truncated, won = (np.array(item) for item in result)
        if self.filmed is not None and self._active[0]:
            self._ending = self._jax.tree.map(lambda of_all: of_all[0], self.battles.units), bool(won[0])
        self._active &= ~(terminated | truncated)
        agent_rewards = contributions if self.credit == "contribution" else None
        return TeamStep(self._view(), rewards, agent_rewards, terminated, truncated, won)

    def pure_world(self) -> Any:
        """The functions of one battle; ``None`` where a subclass resets or steps by functions of its own."""
        own = type(self).step is SmaxTeams.step and type(self).reset is SmaxTeams.reset
        return self.world if own and self.filmed is None else None

    def keys(self, seeds: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The keys of battles ``[E, 2]``."""
        return keys_of(seeds)

    def film(self) -> None:
        """Record the first copy's moves from its next reset on, in ``filmed``, for :meth:`frames`."""
        self.filmed = []

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Draw the recorded moves ``[height, width, 3]``, several pictures to a step, and how they ended."""
        from rllib_agg.envs.smax.frames import draw

        return draw(self.world.env, self.filmed or [], *self._ending)

    def close(self) -> None:
        """Nothing to release."""

    def _view(self) -> TeamView:
        observations, states, masks = (np.array(item) for item in self._views)
        self._masks = masks.copy()  # the caller may change the view's
        return TeamView(observations, states, masks)


def make_smax(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> SmaxTeams:
    """Make E copies of a map of :mod:`~rllib_agg.envs.smax.maps`, or of one registered with SMAX."""
    check_credit(f"smax/{task}", credit, {"contribution"})
    check_settings(f"smax/{task}", make_world, settings, given=1)
    check_world(settings)  # those that cannot be hashed, or are equal to others, included
    return SmaxTeams(compiled_battles(task, num_envs, tuple(sorted(settings.items()))), num_envs, credit=credit)


def team_spec(env: Any) -> TeamSpec:
    """Sizes of SMAX's environment; its units have one type where SMACv2 draws them in each episode."""
    types = ["unit"] * env.num_allies
    if not env.smacv2_unit_type_generation:
        types = [env.unit_type_names[number] for number in np.asarray(env.scenario)[: env.num_allies].tolist()]
    return TeamSpec(
        num_agents=env.num_allies,
        num_actions=env.num_ally_actions,
        observation_size=env.obs_size,
        state_size=env.state_size,
        max_episode_steps=env.max_steps,
        agent_types=tuple(types),
        credits=frozenset({"contribution"}),
        has_wins=True,
    )
