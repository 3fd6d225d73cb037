"""One battle of SMAX as pure functions of JAX arrays, with the agents' contributions.

Axes: n allies, m enemies, u = n + m units, T ticks of the world in a step, d and s sizes of an observation and of the state, a
actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxmarl.environments.smax.heuristic_enemy import create_heuristic_policy, get_heuristic_policy_initial_state

Array = jax.Array


class Battle(NamedTuple):
    """State of a battle.

    :param key: Of the episode's random numbers.
    :param units: SMAX's state.
    :param enemy_memory: State of the enemies' heuristic, each entry ``[m]``.
    :param enemy_observations: Input of its next decision ``[m, d]``.
    """

    key: Array
    units: Any
    enemy_memory: Any
    enemy_observations: Array


class View(NamedTuple):
    """The team's view: ``[n, d]``, ``[s]``, ``[n, a]``."""

    observations: Array
    state: Array
    masks: Array


class Result(NamedTuple):
    """Result of a step; ``contributions`` ``[n]``, the others scalars."""

    reward: Array
    contributions: Array
    terminated: Array
    truncated: Array
    won: Array


class Moves(NamedTuple):
    """A step that can be replayed: SMAX's key, the units before it, and all units' actions."""

    key: Array
    units: Any
    actions: dict[str, Array]


class SmaxWorld:
    """SMAX against its own heuristic enemies.

    :param env: SMAX, of both teams.
    :param attack_mode: Target of the enemies: ``"closest"`` or ``"random"``.
    :param enemy_shoots: Whether the enemies shoot.
    """

    def __init__(self, env: Any, *, attack_mode: str = "closest", enemy_shoots: bool = True) -> None:
        self.env = env
        self._allies, self._enemies = env.agents[: env.num_allies], env.agents[env.num_allies :]
        self._enemy_policy = jax.vmap(create_heuristic_policy(env, 1, shoot=enemy_shoots, attack_mode=attack_mode))
        self._state_scale = self._scales()

    def reset(self, key: Array) -> tuple[Battle, View]:
        """Begin a battle from a key."""
        key, reset_key = jax.random.split(key)
        observations, units = self.env.reset(reset_key)
        one: Any = get_heuristic_policy_initial_state()  # type: ignore[no-untyped-call]
        memory = jax.tree.map(lambda value: jnp.stack([jnp.asarray(value)] * len(self._enemies)), one)
        return self._observe(key, units, memory, observations)

    def step(self, battle: Battle, actions: Array, *, credits: bool = True) -> tuple[Battle, View, Result, Moves]:
        """Move all units for one step, the allies by actions ``[n]``; without ``credits`` contributions are 0."""
        env, before = self.env, battle.units
        key, enemy_key, world_key = jax.random.split(battle.key, 3)
        enemy_keys = jax.random.split(enemy_key, len(self._enemies))
        enemy_actions, memory = self._enemy_policy(enemy_keys, battle.enemy_memory, battle.enemy_observations)
        chosen = {name: actions[index] for index, name in enumerate(self._allies)}
        chosen |= {name: enemy_actions[index] for index, name in enumerate(self._enemies)}
        if credits:
            ticks = env.step_env(world_key, before, chosen, True)  # the units after each of T ticks
            contributions = self._contributions(before, ticks)
            units = jax.tree.map(lambda of_ticks: of_ticks[-1], ticks)
        else:  # ticks are written to memory, which takes a fifth of a step
            _, units, *_ = env.step_env(world_key, before, chosen)
            contributions = jnp.zeros(env.num_allies)
        units = units.replace(step=before.step + 1)
        units = units.replace(done=env.is_terminal(units))
        reward = env.compute_reward(units, before.unit_health, units.unit_health)[self._allies[0]]
        alive = units.unit_alive
        allies_live, enemies_live = alive[: env.num_allies].any(), alive[env.num_allies :].any()
        terminated = ~allies_live | ~enemies_live
        result = Result(
            reward,
            contributions,
            terminated,
            ~terminated & (units.step >= env.max_steps),
            ~enemies_live & allies_live,
        )
        return *self._observe(key, units, memory, env.get_obs(units)), result, Moves(world_key, before, chosen)

    def _observe(self, key: Array, units: Any, memory: Any, observations: dict[str, Array]) -> tuple[Battle, View]:
        masks = self.env.get_avail_actions(units)
        view = View(
            jnp.stack([observations[name] for name in self._allies]),
            self.env.get_world_state(units) * self._state_scale,
            jnp.stack([masks[name] for name in self._allies]).astype(bool),
        )
        return Battle(key, units, memory, jnp.stack([observations[name] for name in self._enemies])), view

    def _contributions(self, before: Any, ticks: Any) -> Array:
        """Split what the enemies lost in a step among the allies, on the scale of the reward.

        A unit strikes under SMAX's conditions: at a tick's start both units live, the target is in range and the weapon is
        ready. Allies that strike one enemy in the same tick share its loss in proportion to their damage, so that overkill
        gains nothing. An enemy's loss at the wall is no ally's contribution: all get equal shares, so that the sum is the
        team's reward.
        """
        env, n = self.env, self.env.num_allies
        started = jax.tree.map(lambda first, later: jnp.concatenate([first[None], later[:-1]]), before, ticks)  # [T, ...]
        types = before.unit_types
        struck = ticks.prev_attack_actions[0, :n] - env.num_movement_actions  # [n], < 0: none
        aims = struck[:, None] == jnp.arange(len(self._enemies))  # [n, m]
        between = started.unit_positions[:, :n, None] - started.unit_positions[:, None, n:]
        in_range = jnp.linalg.norm(between, axis=-1) < env.unit_type_attack_ranges[types[:n]][:, None]
        both_live = started.unit_alive[:, :n, None] & started.unit_alive[:, None, n:]
        ready = started.unit_weapon_cooldowns[:, :n, None] <= 0.0
        damage = (aims & in_range & both_live & ready) * env.unit_type_attacks[types[:n]][:, None]  # [T, n, m]
        total = damage.sum(axis=1)
        lost = started.unit_health[:, n:] - ticks.unit_health[:, n:]  # [T, m]
        by_weapons = jnp.minimum(total, started.unit_health[:, n:])
        shares = damage / jnp.where(total > 0, total, 1.0)[:, None]
        worth = 1.0 / (env.unit_type_health[types[n:]] * len(self._enemies))  # [m], of a point of health
        earned = (shares * (by_weapons * worth)[:, None]).sum(axis=(0, 2))
        whole: Array = earned + ((lost - by_weapons) * worth).sum() / n
        return whole

    def _scales(self) -> Array:
        """Factors ``[s]`` that turn positions in SMAX's state, up to 32, into shares of the map, on the scale of the rest."""
        features = jnp.ones(len(self.env.own_features))
        features = features.at[1:3].set(1.0 / jnp.array([self.env.map_width, self.env.map_height]))
        return jnp.concatenate([jnp.tile(features, self.env.num_agents), jnp.ones(2 * self.env.num_agents)])
