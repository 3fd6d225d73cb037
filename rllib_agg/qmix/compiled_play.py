"""Whole episodes in one compiled loop: agents and environment, for environments that are pure functions of JAX arrays.

Axes: E copies at once, N episodes, S rows (steps of all copies), T time, n agents, a actions, d and s sizes of an observation
and of the state, m networks, K sequences of each network, H units.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.smax.xla import compile_program
from rllib_agg.envs.team.interface import CompilableTeamEnv, TeamSpec
from rllib_agg.qmix.episodes import Outcome, TeamEpisodes, action_dtype, check_masks, pack, too_long
from rllib_agg.qmix.networks import AgentNetworks

Array = jax.Array
Weights = Mapping[str, Array]

GROUPS = 4
"""Groups of episodes in a program. A copy whose episode has ended plays one of the next group instead of waiting."""

LEAST = 16
"""Copies from which on those that still play at the end go on in a batch of half the size."""


class Kind(NamedTuple):
    """What a program depends on, of the agents' networks."""

    num_networks: int
    hidden: int
    num_actions: int
    agent_ids: bool
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, networks: AgentNetworks) -> Kind:
        """The kind of some networks."""
        shapes = tuple((name, tuple(value.shape)) for name, value in networks.state_dict().items())
        return cls(networks.num_networks, networks.hidden, networks.num_actions, networks.agent_ids, shapes)


class Lanes(NamedTuple):
    """What the E copies play.

    :param copy: Their numbers ``[E]``.
    :param episode: Numbers of their episodes ``[E]``; N where there is none left.
    :param step: Steps that were taken in them ``[E]``.
    :param first: Rows of their first steps ``[E]``.
    :param world: The environment's states, of E.
    :param view: What the teams see, of E.
    :param hidden: The networks' ``[E, n, H]``.
    :param last: The last actions ``[E, n]``; -1 before the first.
    """

    copy: Array
    episode: Array
    step: Array
    first: Array
    world: Any
    view: Any
    hidden: Array
    last: Array


class Played(NamedTuple):
    """What has been played.

    :param row: Rows so far.
    :param following: The first episode that has not begun.
    :param lanes: What is being played.
    :param rows: Of all steps, ``[S, E, ...]`` each.
    :param episodes: Of those that have ended, ``[N, ...]`` each.
    """

    row: Array
    following: Array
    lanes: Lanes
    rows: dict[str, Array]
    episodes: dict[str, Array]


class CompiledPlay:
    """Plays up to N = :data:`GROUPS` * E episodes in E copies, one after the other.

    :param world: Pure functions of one copy: ``reset(key) -> (state, view)`` and
        ``step(state, actions, credits=...) -> (state, view, result, moves)``, as of
        :class:`~rllib_agg.envs.smax.world.SmaxWorld`.
    :param spec: Sizes of the environment.
    :param num_envs: E.
    :param kind: Of the networks that act.
    :param credits: Whether to return the agents' contributions.
    """

    def __init__(self, world: Any, spec: TeamSpec, num_envs: int, kind: Kind, credits: bool) -> None:
        self._world, self._spec, self._num_envs, self._kind, self._credits = world, spec, num_envs, kind, credits
        self._capacity, single = GROUPS * num_envs, np.float32
        arguments = (
            {name: np.zeros(shape, single) for name, shape in kind.shapes},
            np.zeros((self._capacity, 2), np.uint32),
            single(0),
            np.zeros((self._capacity, spec.max_episode_steps, 2, spec.num_agents), single),
            np.int32(0),
        )
        self._program = compile_program(f"{spec.num_agents} agents in {num_envs} copies: episodes", self._play, *arguments)

    def __call__(
        self, weights: Mapping[str, Any], keys: NDArray[Any], epsilon: float, chances: NDArray[Any]
    ) -> dict[str, NDArray[Any]]:
        """Play k episodes.

        :param weights: The networks' parameters by name.
        :param keys: One for each episode ``[k, 2]``.
        :param epsilon: The share of random actions.
        :param chances: Uniform numbers: whether an action is random, and which ``[k, T, 2, n]``.
        :return: Of all rows ``observations`` ``[S, E, n, d]``, ``states`` ``[S, E, s]``, ``masks`` ``[S, E, n, a]``,
            ``actions`` ``[S, E, n]``, ``rewards`` ``[S, E]`` and, if asked for, ``agent_rewards`` ``[S, E, n]``. Of each
            episode ``[k]`` ``copy`` and ``first``, where it was played and its first row; ``length``, ``terminated`` and
            ``won``; and after its last step ``last_observations`` ``[k, n, d]``, ``last_states`` and ``last_masks``.
        :raises RuntimeError: if an episode exceeds the environment's limit.
        """
        count = len(keys)
        found = self._program(dict(weights), self._padded(keys), np.float32(epsilon), self._padded(chances), np.int32(count))
        if found.pop("playing"):
            raise too_long(self._spec)
        rows, episodes = ({name: np.asarray(value) for name, value in found[kind].items()} for kind in ("rows", "episodes"))
        return rows | {name: value[:count] for name, value in episodes.items()}

    def _padded(self, values: NDArray[Any]) -> NDArray[Any]:
        padded = np.zeros((self._capacity, *values.shape[1:]), np.uint32 if values.dtype == np.uint32 else np.float32)
        padded[: len(values)] = values
        return padded

    def _play(self, weights: Weights, keys: Array, epsilon: Array, chances: Array, count: Array) -> dict[str, Any]:
        spec, copies = self._spec, self._num_envs
        starts = jax.vmap(self._world.reset)(keys)
        num_rows, agents = GROUPS * spec.max_episode_steps, spec.num_agents
        _, views = starts

        def several(number: int, value: Array) -> Array:
            return jnp.zeros((number, *value.shape), value.dtype)

        per_row = {
            "observations": views.observations[:copies],
            "states": views.state[:copies],
            "masks": views.masks[:copies],
            "actions": jnp.zeros((copies, agents), jnp.int32),
            "rewards": jnp.zeros(copies, jnp.float32),
            **({"agent_rewards": jnp.zeros((copies, agents), jnp.float32)} if self._credits else {}),
        }
        numbers, flags = jnp.zeros(self._capacity, jnp.int32), jnp.zeros(self._capacity, jnp.bool_)
        episodes = {
            **dict.fromkeys(("copy", "first", "length"), numbers),
            **dict.fromkeys(("terminated", "won"), flags),
            "last_observations": views.observations,
            "last_states": views.state,
            "last_masks": views.masks,
        }
        rows = {name: several(num_rows, value) for name, value in per_row.items()}
        lanes = self._begin(starts, jnp.arange(copies), jnp.arange(copies), jnp.int32(0), count)
        played = Played(jnp.int32(0), jnp.int32(copies), lanes, rows, episodes)
        play = functools.partial(self._play_until, weights, epsilon, chances, count, starts)
        if copies < LEAST:
            played = play(0, played)
        else:
            played = play(copies // 2, played)
            still = jnp.argsort(played.lanes.episode == self._capacity, stable=True)[: copies // 2]
            played = play(0, played._replace(lanes=jax.tree.map(lambda of_all: of_all[still], played.lanes)))
        playing = (played.lanes.episode < self._capacity).any()
        return {"rows": played.rows, "episodes": played.episodes, "playing": playing}

    def _play_until(
        self, weights: Weights, epsilon: Array, chances: Array, count: Array, starts: Any, few: int, played: Played
    ) -> Played:
        """Step, and begin episodes in copies whose own has ended, until no more than ``few`` copies play."""
        copies, capacity = len(played.lanes.episode), self._capacity
        whole, num_rows = copies == self._num_envs, len(played.rows["rewards"])
        move = jax.vmap(functools.partial(self._world.step, credits=self._credits))

        def unfinished(played: Played) -> Array:
            going: Array = (played.row < num_rows) & ((played.lanes.episode < capacity).sum() > few)
            return going

        def advance(played: Played) -> Played:
            row, following, lanes, rows, episodes = played
            values, hidden = self._values(weights, lanes.view.observations, lanes.last, lanes.hidden)
            chosen = choose(values, lanes.view.masks, epsilon, chances[lanes.episode, lanes.step])
            world, view, result, _ = move(lanes.world, chosen)
            seen = {"observations": lanes.view.observations, "states": lanes.view.state, "masks": lanes.view.masks}
            seen |= {"actions": chosen, "rewards": result.reward, "agent_rewards": result.contributions}
            where = row if whole else (row, lanes.copy)
            rows = {name: stored.at[where].set(seen[name]) for name, stored in rows.items()}
            lanes = lanes._replace(step=lanes.step + 1, world=world, view=view, hidden=hidden, last=chosen)
            over = result.terminated | result.truncated

            def refill(_: Any) -> tuple[Array, Lanes, dict[str, Array]]:
                ended = {
                    "copy": lanes.copy,
                    "first": lanes.first,
                    "length": lanes.step,
                    "terminated": result.terminated,
                    "won": result.won,
                    "last_observations": view.observations,
                    "last_states": view.state,
                    "last_masks": view.masks,
                }
                place = jnp.where(over, lanes.episode, capacity)
                written = {name: episodes[name].at[place].set(value, mode="drop") for name, value in ended.items()}
                fresh = self._begin(starts, lanes.copy, following + jnp.cumsum(over) - 1, row + 1, count)

                def choose_lane(new: Array, old: Array) -> Array:
                    return jnp.where(over.reshape(-1, *[1] * (new.ndim - 1)), new, old)

                return following + over.sum(), jax.tree.map(choose_lane, fresh, lanes), written

            following, lanes, episodes = jax.lax.cond(over.any(), refill, lambda _: (following, lanes, episodes), None)
            return Played(row + 1, following, lanes, rows, episodes)

        return jax.lax.while_loop(unfinished, advance, played)

    def _begin(self, starts: Any, copy: Array, episode: Array, row: Array, count: Array) -> Lanes:
        """Copies at the beginning of these episodes, in a row; those from ``count`` on do not exist."""
        world, view = jax.tree.map(lambda of_all: of_all[jnp.minimum(episode, self._capacity - 1)], starts)
        shape = (len(copy), self._spec.num_agents)
        return Lanes(
            copy=copy,
            episode=jnp.where(episode < count, episode, self._capacity).astype(jnp.int32),
            step=jnp.zeros(len(copy), jnp.int32),
            first=jnp.full(len(copy), row, jnp.int32),
            world=world,
            view=view,
            hidden=jnp.zeros((*shape, self._kind.hidden), jnp.float32),
            last=jnp.full(shape, -1, jnp.int32),
        )

    def _values(self, weights: Weights, observations: Array, last: Array, hidden: Array) -> tuple[Array, Array]:
        """One step of :meth:`AgentNetworks.arrange` and :meth:`AgentNetworks.forward`: ``[E, n, a]`` and ``[E, n, H]``."""
        kind, (count, agents, _) = self._kind, observations.shape
        inputs = [observations, jax.nn.one_hot(last, kind.num_actions)]
        if kind.agent_ids:
            inputs.append(jnp.broadcast_to(jnp.eye(agents), (count, agents, agents)))
        shared, size = kind.num_networks == 1, kind.hidden

        def by_network(values: Array) -> Array:
            return values.reshape(1, count * agents, -1) if shared else values.swapaxes(0, 1)

        def by_copy(values: Array) -> Array:
            return values.reshape(count, agents, -1) if shared else values.swapaxes(0, 1)

        given, hidden = by_network(jnp.concatenate(inputs, axis=-1)), by_network(hidden)
        features = jax.nn.relu(given @ weights["feature.weight"] + weights["feature.bias"])
        new = features @ weights["rnn.weight_ih"] + weights["rnn.bias_ih"]
        old = hidden @ weights["rnn.weight_hh"] + weights["rnn.bias_hh"]
        gates = jax.nn.sigmoid(new[..., : 2 * size] + old[..., : 2 * size])
        candidate = jnp.tanh(new[..., 2 * size :] + gates[..., :size] * old[..., 2 * size :])
        hidden = candidate + gates[..., size:] * (hidden - candidate)
        return by_copy(hidden @ weights["head.weight"] + weights["head.bias"]), by_copy(hidden)


def choose(values: Array, masks: Array, epsilon: Array, chances: Array) -> Array:
    """As :func:`~rllib_agg.qmix.rollout.choose_actions`, from uniform numbers ``[E, 2, n]``."""
    best = jnp.where(masks, values, -jnp.inf).argmax(-1)
    legal = masks.sum(-1)
    # A number just below 1 becomes 1 as a float of 32 bits.
    ranks = jnp.minimum((chances[:, 1] * legal).astype(jnp.int32), legal - 1)
    drawn = (masks.cumsum(-1) > ranks[..., None]).argmax(-1)
    return jnp.where(chances[:, 0] < epsilon, drawn, best).astype(jnp.int32)


program_of = functools.lru_cache(maxsize=8)(CompiledPlay)
"""One program for all users in a process: an algorithm, its env runner and its evaluation."""


def play_compiled(
    env: CompilableTeamEnv,
    world: Any,
    networks: AgentNetworks,
    epsilon: float,
    generators: Sequence[np.random.Generator],
    seeds: Sequence[NDArray[np.int64]],
) -> list[Outcome]:
    """Play groups of E episodes, with the random numbers that :class:`~rllib_agg.qmix.rollout.TeamPlayers` steps with.

    :param world: Of ``env.pure_world()``.
    :param generators: Of the groups, no more than :data:`GROUPS`.
    :param seeds: Of each group's episodes ``[E]``.
    """
    spec, copies, agents = env.spec, env.num_envs, env.spec.num_agents
    shape = (spec.max_episode_steps, 2, copies, agents)
    chances = [generator.random(shape) if epsilon else np.zeros(shape) for generator in generators]
    weights = {name: value.numpy() for name, value in networks.state_dict().items()}
    program = program_of(world, spec, copies, Kind.of(networks), env.credit == "contribution")
    by_episode = np.concatenate([np.moveaxis(group, 2, 0) for group in chances])
    found = program(weights, env.keys(np.concatenate(seeds)), epsilon, by_episode)
    lengths = found["length"].astype(np.int64)
    steps, count = int(lengths.max()), len(lengths)
    playing = np.arange(steps) < lengths[:, None]
    # Beyond an episode's end are rows of others, which whoever reads episodes leaves out.
    rows = np.minimum(found["first"][:, None] + np.arange(steps + 1), len(found["rewards"]) - 1)
    places = rows, found["copy"][:, None]

    def viewed(name: str) -> NDArray[Any]:
        values: NDArray[Any] = found[name][places]
        values[np.arange(count), lengths] = found[f"last_{name}"]
        return values

    def acted(name: str) -> NDArray[Any]:
        values: NDArray[Any] = found[name][rows[:, :-1], places[1]]
        return values

    masks = viewed("masks")
    check_masks(masks[:, :-1][playing])
    rewards = np.where(playing, acted("rewards"), 0)
    earned = acted("agent_rewards") if "agent_rewards" in found else np.repeat(rewards[..., None], agents, axis=-1)
    record = TeamEpisodes(
        observations=viewed("observations"),
        states=viewed("states"),
        masks=pack(masks),
        actions=acted("actions").astype(action_dtype(spec.num_actions)),
        rewards=rewards,
        lengths=lengths,
        terminated=found["terminated"],
    )
    credits = np.where(playing[..., None], earned, 0).sum(1, dtype=np.float64)

    def outcome_of(group: int) -> Outcome:
        own = np.arange(group * copies, (group + 1) * copies)
        return record.take(own, int(lengths[own].max())), credits[own], found["won"][own], np.zeros(copies, np.bool_)

    return [outcome_of(group) for group in range(len(generators))]
