"""SMAX's battles, compiled once in a process for all users: an algorithm, its env runner and its evaluation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_choice, check_count, check_flag
from rllib_agg.envs.smax.maps import find_scenario
from rllib_agg.envs.smax.xla import compile_program, prepare_xla
from rllib_agg.envs.team.extras import import_extra

ATTACK_MODES = ("closest", "random")
FLAGS = ("enemy_shoots", "see_enemy_actions", "walls_cause_death")


class CompiledBattles:
    """E battles of one map. Each function is compiled when it is first used.

    :param title: Of messages.
    :param world: Of one battle.
    :param num_envs: E.
    """

    def __init__(self, title: str, world: Any, num_envs: int) -> None:
        self.title, self.world, self._num_envs = title, world, num_envs

    @functools.cached_property
    def start(self) -> tuple[Any, Any]:
        """Placeholder battles and views, for the first reset to replace."""
        import jax

        shapes = jax.eval_shape(jax.vmap(self.world.reset), self._keys)
        zeros: tuple[Any, Any] = jax.tree.map(lambda item: jax.numpy.zeros(item.shape, item.dtype), shapes)
        return zeros

    @functools.cached_property
    def reset(self) -> Any:
        """From battles, views, which of them ``[E]`` and keys ``[E, 2]`` to battles and views."""
        import jax

        def restart(battles: Any, views: Any, which: Any, keys: Any) -> Any:
            def select(new: Any, old: Any) -> Any:
                return jax.numpy.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return jax.tree.map(select, jax.vmap(self.world.reset)(keys), (battles, views))

        none = np.zeros(self._num_envs, dtype=np.bool_)
        return compile_program(f"{self.title}: reset", restart, *self.start, none, self._keys)

    @functools.cached_property
    def step(self) -> Any:
        """From battles and actions ``[E, n]`` to battles, views, results and moves."""
        import jax

        actions = np.zeros((self._num_envs, self.world.env.num_allies), dtype=np.int32)
        return compile_program(f"{self.title}: step", jax.vmap(self.world.step), self.start[0], actions)

    @property
    def _keys(self) -> NDArray[np.uint32]:
        return keys_of(np.zeros(self._num_envs, dtype=np.int64))


@functools.lru_cache(maxsize=8)
def compiled_battles(task: str, num_envs: int, settings: tuple[tuple[str, Any], ...]) -> CompiledBattles:
    """E battles of a map, with settings of :func:`make_world`."""
    prepare_xla()
    return CompiledBattles(f"SMAX {task}, {num_envs} copies", make_world(task, **dict(settings)), num_envs)


def check_world(settings: Mapping[str, Any]) -> None:
    """Check settings of :func:`make_world`; ``ValueError`` names the one that is wrong."""
    if settings.get("max_episode_steps") is not None:
        check_count("max_episode_steps", settings["max_episode_steps"], least=1)
    if "attack_mode" in settings:
        check_choice("attack_mode", settings["attack_mode"], ATTACK_MODES)
    for name in FLAGS:
        if name in settings:
            check_flag(name, settings[name])


def make_world(
    task: str,
    *,
    max_episode_steps: int | None = None,
    attack_mode: str = "closest",
    enemy_shoots: bool = True,
    see_enemy_actions: bool = True,
    walls_cause_death: bool = True,
) -> Any:
    """Make one battle, of settings that are checked.

    :param max_episode_steps: ``None``: the limit of SMAC's map.
    :param attack_mode: Target of the enemies, ``"closest"`` or ``"random"``.
    :param enemy_shoots: Whether the enemies shoot.
    :param see_enemy_actions: Whether the team observes the enemies' last actions.
    :param walls_cause_death: Whether the edge of the map kills.
    """
    smax = import_extra("jaxmarl.environments.smax.smax_env", "smax")
    from rllib_agg.envs.smax.world import SmaxWorld

    scenario, limit = find_scenario(smax, task)
    if max_episode_steps is not None:
        limit = max_episode_steps
    env = smax.SMAX(
        scenario=scenario, max_steps=limit, see_enemy_actions=see_enemy_actions, walls_cause_death=walls_cause_death
    )
    return SmaxWorld(env, attack_mode=attack_mode, enemy_shoots=enemy_shoots)


def keys_of(seeds: NDArray[np.int64]) -> NDArray[np.uint32]:
    """JAX's keys ``[E, 2]`` from seeds ``[E]``, using all 64 bits."""
    words = seeds.astype(np.uint64)
    return np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
