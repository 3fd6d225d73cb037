"""SMAX's battles, compiled once in a process for all that play them: an algorithm, its env runner and its evaluation."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_count, unknown_choice
from rllib_agg.envs.smax.maps import find_scenario
from rllib_agg.envs.team.packages import import_extra

XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"
"""One thread: the arrays are so small that sharing them out costs more than it saves."""

ATTACK_MODES = ("closest", "random")


@dataclass(frozen=True)
class CompiledBattles:
    """E battles of one map.

    :param world: Of one battle.
    :param reset: From battles, sights, which of them ``[E]`` and keys ``[E, 2]`` to battles and sights.
    :param step: From battles and actions ``[E, n]`` to battles, sights, results and moves.
    :param start: Battles and sights to begin with, for the first reset to replace.
    """

    world: Any
    reset: Callable[..., Any]
    step: Callable[..., Any]
    start: tuple[Any, Any]


@functools.lru_cache(maxsize=8)
def compiled_battles(task: str, num_envs: int, settings: tuple[tuple[str, Any], ...]) -> CompiledBattles:
    """Compile, and say that it takes a while.

    :param task: The map's name.
    :param num_envs: E.
    :param settings: Those of :func:`make_world`.
    """
    _prepare_xla()
    world = make_world(task, **dict(settings))
    import jax

    began = time.monotonic()
    print(f"SMAX {task}: compiling for {num_envs} copies ...", file=sys.stderr, flush=True)
    keys, nobody = keys_of(np.zeros(num_envs, dtype=np.int64)), np.zeros(num_envs, dtype=np.bool_)

    def restart(battles: Any, sights: Any, which: Any, keys: Any) -> Any:
        anew = jax.vmap(world.reset)(keys)
        return jax.tree.map(
            lambda new, old: jax.numpy.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old), anew, (battles, sights)
        )

    shapes = jax.eval_shape(jax.vmap(world.reset), keys)
    none = jax.tree.map(lambda item: jax.numpy.zeros(item.shape, item.dtype), shapes)
    # Compiled here and once: what came of another type, as of a first reset, would be refused rather than compiled anew.
    reset = jax.jit(restart).lower(*none, nobody, keys).compile()
    battles, sights = reset(*none, ~nobody, keys)
    actions = np.zeros((num_envs, world.env.num_allies), dtype=np.int32)
    step = jax.jit(jax.vmap(world.step)).lower(battles, actions).compile()
    print(f"SMAX {task}: compiled in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return CompiledBattles(world, reset, step, (battles, sights))


def make_world(
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
    from rllib_agg.envs.smax.world import SmaxWorld

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


def keys_of(seeds: NDArray[np.int64]) -> NDArray[np.uint32]:
    """``[E]`` to JAX's keys ``[E, 2]``, all 64 bits of them."""
    words = seeds.astype(np.uint64)
    return np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
