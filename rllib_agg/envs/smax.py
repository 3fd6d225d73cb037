"""SMAX, JaxMARL's battles in the manner of StarCraft: all copies in one compiled step.

Its win rates are SMAX's: the enemies are its own heuristic, and there are no shields, medivacs or terrain. Axes: E
environments, n agents.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.choices import check_count, check_settings, unknown_choice
from rllib_agg.envs.credits import check_actions, check_credit
from rllib_agg.envs.packages import import_extra
from rllib_agg.envs.smax_maps import find_scenario
from rllib_agg.envs.team import Bools, TeamSpec, TeamStep, TeamView

XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"
"""One thread: the arrays are so small that sharing them out costs more than it saves."""

ATTACK_MODES = ("closest", "random")


class SmaxTeams:
    """E battles that step together.

    :param world: Of one battle.
    :param task: The map's name, for the message.
    :param num_envs: E.
    :param credit: ``contribution`` or ``team``.
    """

    def __init__(self, world: Any, task: str, num_envs: int, *, credit: str) -> None:
        import jax

        self.num_envs, self.world = num_envs, world
        self._jax, self._credit = jax, credit
        env = world.env
        self.spec = TeamSpec(
            num_agents=env.num_allies,
            num_actions=env.num_ally_actions,
            observation_size=env.obs_size,
            state_size=env.state_size,
            max_episode_steps=env.max_steps,
            agent_types=_unit_types(env),
            credits=frozenset({"contribution"}),
            has_wins=True,
        )
        self._going = np.zeros(num_envs, dtype=np.bool_)
        self._battles: Any = None
        self._sights: Any = None
        self.filmed: list[Any] | None = None
        self._compile(task)

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        """Begin new battles in some of the copies, each from its own seed."""
        self._battles, self._sights = self._reset(self._battles, self._sights, np.asarray(which, dtype=np.bool_), _keys(seeds))
        self._going |= which
        if self.filmed is not None and which[0]:
            self.filmed = []
        return self._view()

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Step all battles; those that are over go on unseen."""
        check_actions(actions, self._masks, self._going)
        self._battles, self._sights, result, moves = self._step(self._battles, actions.astype(np.int32))
        if self.filmed is not None and self._going[0]:
            self.filmed.append(self._jax.tree.map(lambda of_all: of_all[0], tuple(moves)))
        rewards, contributions, terminated, truncated, won = (np.array(item) for item in result)
        self._going &= ~(terminated | truncated)
        agent_rewards = contributions if self._credit == "contribution" else None
        return TeamStep(self._view(), rewards, agent_rewards, terminated, truncated, won)

    def film(self) -> None:
        """Keep the first copy's moves from its next reset on, in ``filmed``, for :meth:`frames`."""
        self.filmed = []

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Draw what was kept ``[height, width, 3]``, in SMAX's own manner, several to a step."""
        from rllib_agg.envs.smax_frames import draw

        return draw(self.world.env, self.filmed or [])

    def close(self) -> None:
        """Nothing is held but memory."""

    def _compile(self, task: str) -> None:
        jax = self._jax
        began = time.monotonic()
        print(f"SMAX {task}: compiling for {self.num_envs} copies ...", file=sys.stderr, flush=True)
        keys = _keys(np.zeros(self.num_envs, dtype=np.int64))

        def restart(battles: Any, sights: Any, which: Any, keys: Any) -> Any:
            anew = jax.vmap(self.world.reset)(keys)
            return jax.tree.map(
                lambda new, old: jax.numpy.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old), anew, (battles, sights)
            )

        shapes = jax.eval_shape(jax.vmap(self.world.reset), keys)
        none = jax.tree.map(lambda item: jax.numpy.zeros(item.shape, item.dtype), shapes)
        # Compiled here and once: what came of another type, as of a first reset, would be refused rather than compiled anew.
        self._reset = jax.jit(restart).lower(*none, self._going, keys).compile()
        self._battles, self._sights = self._reset(*none, ~self._going, keys)
        actions = np.zeros((self.num_envs, self.spec.num_agents), dtype=np.int32)
        self._step = jax.jit(jax.vmap(self.world.step)).lower(self._battles, actions).compile()
        self._view()
        print(f"SMAX {task}: compiled in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)

    def _view(self) -> TeamView:
        observations, states, masks = (np.array(item) for item in self._sights)
        self._masks = masks.copy()  # the other is the caller's
        return TeamView(observations, states, masks)


def make_smax(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> SmaxTeams:
    """Make E copies of a map, SMAX's or our own, or one registered with SMAX."""
    check_credit(f"smax/{task}", credit, {"contribution"})
    check_settings(f"smax/{task}", _make_world, settings, given=1)
    _prepare_xla()
    return SmaxTeams(_make_world(task, **settings), task, num_envs, credit=credit)


def _make_world(
    task: str,
    *,
    max_episode_steps: int | None = None,
    attack_mode: str = "closest",
    enemy_shoots: bool = True,
    see_enemy_actions: bool = True,
    walls_cause_death: bool = True,
) -> Any:
    """Make one battle.

    :param max_episode_steps: ``None``: the limit of SMAC's map.
    :param attack_mode: Whom the enemies attack.
    :param enemy_shoots: Whether they do.
    :param see_enemy_actions: Whether the team sees what the enemies did last.
    :param walls_cause_death: Whether the edge of the map kills.
    """
    smax = import_extra("jaxmarl.environments.smax.smax_env", "smax")
    from rllib_agg.envs.smax_world import SmaxWorld

    scenario, limit = find_scenario(smax, task)
    if attack_mode not in ATTACK_MODES:
        raise unknown_choice("attack_mode", attack_mode, ATTACK_MODES)
    if max_episode_steps is not None:
        check_count("max_episode_steps", max_episode_steps, least=1)
        limit = max_episode_steps
    env = smax.SMAX(
        scenario=scenario, max_steps=limit, see_enemy_actions=see_enemy_actions, walls_cause_death=walls_cause_death
    )
    return SmaxWorld(env, attack_mode=attack_mode, enemy_shoots=enemy_shoots)


def _prepare_xla() -> None:
    """Tell JAX to stay on the CPU and on one thread, unless the user told it otherwise or it is running already."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # on a GPU it would take most of the memory from the learner
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {XLA_FLAGS}".strip()


def _keys(seeds: NDArray[np.int64]) -> NDArray[np.uint32]:
    """``[E]`` to JAX's keys ``[E, 2]``, all 64 bits of them."""
    words = seeds.astype(np.uint64)
    return np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


def _unit_types(env: Any) -> tuple[str, ...]:
    if env.smacv2_unit_type_generation:  # drawn anew for each episode
        num_allies: int = env.num_allies
        return ("unit",) * num_allies
    names: list[str] = env.unit_type_names
    numbers: list[int] = np.asarray(env.scenario)[: env.num_allies].tolist()
    return tuple(names[number] for number in numbers)
