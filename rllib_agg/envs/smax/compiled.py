"""SMAX's battles, compiled once in a process for all users: an algorithm, its env runner and its evaluation."""

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

from rl_agg.validation import check_choice, check_count
from rllib_agg.envs.smax.maps import find_scenario
from rllib_agg.envs.team.extras import import_extra

XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"
"""One thread: for arrays this small, distributing the work costs more than it saves."""

ATTACK_MODES = ("closest", "random")


@dataclass(frozen=True)
class CompiledBattles:
    """E battles of one map.

    :param world: Of one battle.
    :param reset: From battles, views, which of them ``[E]`` and keys ``[E, 2]`` to battles and views.
    :param step: From battles and actions ``[E, n]`` to battles, views, results and moves.
    :param start: Placeholder battles and views, for the first reset to replace.
    """

    world: Any
    reset: Callable[..., Any]
    step: Callable[..., Any]
    start: tuple[Any, Any]


@functools.lru_cache(maxsize=8)
def compiled_battles(task: str, num_envs: int, settings: tuple[tuple[str, Any], ...]) -> CompiledBattles:
    """Compile E battles of a map, with settings of :func:`make_world`, and print how long it takes."""
    _prepare_xla()
    world = make_world(task, **dict(settings))
    import jax

    began = time.monotonic()
    print(f"SMAX {task}: compiling for {num_envs} copies ...", file=sys.stderr, flush=True)
    keys, none = keys_of(np.zeros(num_envs, dtype=np.int64)), np.zeros(num_envs, dtype=np.bool_)

    def restart(battles: Any, views: Any, which: Any, keys: Any) -> Any:
        def select(new: Any, old: Any) -> Any:
            return jax.numpy.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(select, jax.vmap(world.reset)(keys), (battles, views))

    shapes = jax.eval_shape(jax.vmap(world.reset), keys)
    zeros = jax.tree.map(lambda item: jax.numpy.zeros(item.shape, item.dtype), shapes)
    # Ahead of time: arguments of another type, as from a first reset, then raise an error instead of compiling again
    reset = jax.jit(restart).lower(*zeros, none, keys).compile()
    battles, views = reset(*zeros, ~none, keys)
    actions = np.zeros((num_envs, world.env.num_allies), dtype=np.int32)
    step = jax.jit(jax.vmap(world.step)).lower(battles, actions).compile()
    print(f"SMAX {task}: compiled in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return CompiledBattles(world, reset, step, (battles, views))


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
    :param attack_mode: Target of the enemies, ``"closest"`` or ``"random"``.
    :param enemy_shoots: Whether the enemies shoot.
    :param see_enemy_actions: Whether the team observes the enemies' last actions.
    :param walls_cause_death: Whether the edge of the map kills.
    """
    smax = import_extra("jaxmarl.environments.smax.smax_env", "smax")
    from rllib_agg.envs.smax.world import SmaxWorld

    scenario, limit = find_scenario(smax, task)
    check_choice("attack_mode", attack_mode, ATTACK_MODES)
    if max_episode_steps is not None:
        check_count("max_episode_steps", max_episode_steps, least=1)
        limit = max_episode_steps
    env = smax.SMAX(
        scenario=scenario, max_steps=limit, see_enemy_actions=see_enemy_actions, walls_cause_death=walls_cause_death
    )
    return SmaxWorld(env, attack_mode=attack_mode, enemy_shoots=enemy_shoots)


def _prepare_xla() -> None:
    """Keep JAX on the CPU and on one thread, unless the user has set otherwise or it is running already."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # on a GPU it would take most of the learner's memory
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {XLA_FLAGS}".strip()


def keys_of(seeds: NDArray[np.int64]) -> NDArray[np.uint32]:
    """JAX's keys ``[E, 2]`` from seeds ``[E]``, using all 64 bits."""
    words = seeds.astype(np.uint64)
    return np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
