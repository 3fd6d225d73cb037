"""Whole episodes in one compiled loop: agents and environment, for environments that are pure functions of JAX arrays.

Axes: E episodes at once, T time, n agents, a actions, d and s sizes of an observation and of the state, m networks, K
sequences of each network, H units.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
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


MANY = 16
"""Copies from which on a smaller batch for those that go on pays."""


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
    """Copies that step together.

    :param copies: Which of the E they are.
    :param worlds: Their states.
    :param view: What their teams see.
    :param hidden: The networks' ``[m, K, H]``.
    :param last: The last actions; -1 where there was none.
    """

    copies: Array
    worlds: Any
    view: Any
    hidden: Array
    last: Array


class CompiledPlay:
    """Plays an episode in each of E copies, until the last has ended.

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
        single = np.float32
        arguments = (
            {name: np.zeros(shape, single) for name, shape in kind.shapes},
            np.zeros((num_envs, 2), np.uint32),
            single(0),
            np.zeros((spec.max_episode_steps, 2, num_envs, spec.num_agents), single),
        )
        self._program = compile_program(f"{spec.num_agents} agents in {num_envs} copies: episodes", self._play, *arguments)

    def __call__(
        self, weights: Mapping[str, Any], keys: Any, epsilon: float, chances: NDArray[Any]
    ) -> dict[str, NDArray[Any]]:
        """Play.

        :param weights: The networks' parameters by name.
        :param keys: One for each copy ``[E, 2]``.
        :param epsilon: The share of random actions.
        :param chances: Uniform numbers: whether an action is random, and which ``[T, 2, E, n]``.
        :return: ``steps``, how many were taken. Of all T steps ``observations`` ``[T+1, E, n, d]``, ``states``
            ``[T+1, E, s]``, ``masks`` ``[T+1, E, n, a]``, ``actions`` ``[T, E, n]``, ``rewards`` ``[T, E]`` and, if asked
            for, ``agent_rewards`` ``[T, E, n]``. Of each episode ``[E]`` ``lengths``, ``terminated``, ``won``
            and ``active``: those that have not ended.
        """
        found = self._program(dict(weights), keys, np.float32(epsilon), chances.astype(np.float32))
        return {name: np.asarray(value) for name, value in found.items()}

    def _play(self, weights: Weights, keys: Array, epsilon: Array, chances: Array) -> dict[str, Array]:
        spec, count, kind = self._spec, self._num_envs, self._kind
        worlds, view = jax.vmap(self._world.reset)(keys)
        steps, agents = spec.max_episode_steps, spec.num_agents
        record = {
            "observations": jnp.zeros((steps + 1, *view.observations.shape), jnp.float32),
            "states": jnp.zeros((steps + 1, *view.state.shape), jnp.float32),
            "masks": jnp.zeros((steps + 1, *view.masks.shape), jnp.bool_),
            "actions": jnp.zeros((steps, count, agents), jnp.int32),
            "rewards": jnp.zeros((steps, count), jnp.float32),
            **({"agent_rewards": jnp.zeros((steps, count, agents), jnp.float32)} if self._credits else {}),
        }
        ends = {
            "lengths": jnp.zeros(count, jnp.int32),
            "terminated": jnp.zeros(count, jnp.bool_),
            "won": jnp.zeros(count, jnp.bool_),
            "active": jnp.ones(count, jnp.bool_),
        }
        hidden = jnp.zeros((kind.num_networks, count * agents // kind.num_networks, kind.hidden), jnp.float32)
        last = jnp.full((count, agents), -1, jnp.int32)
        play = functools.partial(self._play_until, weights, epsilon, chances)
        # Copies that have ended wait for the others: once they are half of many, the others go on in a smaller batch.
        lanes, few = Lanes(jnp.arange(count), worlds, view, hidden, last), count // 2 if count >= MANY else 0
        step, lanes, record, ends = play(few, jnp.int32(0), lanes, record, ends)
        if few:
            chosen = jnp.argsort(~ends["active"], stable=True)[:few]
            step, _, record, ends = play(0, step, self._take(lanes, chosen), record, ends)
        return {"steps": step, **record, **ends}

    def _take(self, lanes: Lanes, chosen: Array) -> Lanes:
        """Some of the lanes."""
        worlds, view, last = jax.tree.map(lambda of_all: of_all[chosen], (lanes.worlds, lanes.view, lanes.last))
        networks, _, size = lanes.hidden.shape
        by_copy = lanes.hidden.reshape(networks, len(lanes.copies), -1, size)
        return Lanes(lanes.copies[chosen], worlds, view, by_copy[:, chosen].reshape(networks, -1, size), last)

    def _play_until(
        self,
        weights: Weights,
        epsilon: Array,
        chances: Array,
        few: int,
        step: Array,
        lanes: Lanes,
        record: dict[str, Array],
        ends: dict[str, Array],
    ) -> tuple[Array, Lanes, dict[str, Array], dict[str, Array]]:
        """Step until no more than ``few`` of the lanes are active, from a step of theirs on."""
        copies, limit = lanes.copies, self._spec.max_episode_steps
        move = jax.vmap(functools.partial(self._world.step, credits=self._credits))
        whole = len(copies) == self._num_envs

        def write(record: dict[str, Array], step: Array, seen: dict[str, Array]) -> dict[str, Array]:
            def put(stored: Array, now: Array) -> Array:
                return stored.at[step].set(now) if whole else stored.at[step, copies].set(now)

            return {name: put(stored, seen[name]) if name in seen else stored for name, stored in record.items()}

        def observed(view: Any) -> dict[str, Array]:
            return {"observations": view.observations, "states": view.state, "masks": view.masks}

        def unfinished(carry: Any) -> Array:
            step, _, _, ends = carry
            going: Array = (step < limit) & (ends["active"][copies].sum() > few)
            return going

        def advance(carry: Any) -> Any:
            step, lanes, record, ends = carry
            values, hidden = self._values(weights, lanes.view.observations, lanes.last, lanes.hidden)
            chosen = choose(values, lanes.view.masks, epsilon, chances[step][:, copies])
            worlds, view, result, _ = move(lanes.worlds, chosen)
            earned = {"actions": chosen, "rewards": result.reward, "agent_rewards": result.contributions}
            record = write(record, step, observed(lanes.view) | earned)
            active = ends["active"][copies]
            over = active & (result.terminated | result.truncated)
            ends = {
                "lengths": ends["lengths"].at[copies].add(active),
                "terminated": ends["terminated"].at[copies].max(over & result.terminated),
                "won": ends["won"].at[copies].max(over & result.won),
                "active": ends["active"].at[copies].min(~over),
            }
            return step + 1, Lanes(copies, worlds, view, hidden, chosen), record, ends

        step, lanes, record, ends = jax.lax.while_loop(unfinished, advance, (step, lanes, record, ends))
        return step, lanes, write(record, step, observed(lanes.view)), ends

    def _values(self, weights: Weights, observations: Array, last: Array, hidden: Array) -> tuple[Array, Array]:
        """One step of :meth:`AgentNetworks.arrange` and :meth:`AgentNetworks.forward`: ``[E, n, a]`` and ``[m, K, H]``."""
        kind, (count, agents, _) = self._kind, observations.shape
        inputs = [observations, jax.nn.one_hot(last, kind.num_actions)]
        if kind.agent_ids:
            inputs.append(jnp.broadcast_to(jnp.eye(agents), (count, agents, agents)))
        given, size, shared = jnp.concatenate(inputs, axis=-1), kind.hidden, kind.num_networks == 1
        given = given.reshape(1, count * agents, -1) if shared else given.swapaxes(0, 1)
        features = jax.nn.relu(given @ weights["feature.weight"] + weights["feature.bias"])
        new = features @ weights["rnn.weight_ih"] + weights["rnn.bias_ih"]
        old = hidden @ weights["rnn.weight_hh"] + weights["rnn.bias_hh"]
        gates = jax.nn.sigmoid(new[..., : 2 * size] + old[..., : 2 * size])
        candidate = jnp.tanh(new[..., 2 * size :] + gates[..., :size] * old[..., 2 * size :])
        hidden = candidate + gates[..., size:] * (hidden - candidate)
        values = hidden @ weights["head.weight"] + weights["head.bias"]
        return values.reshape(count, agents, -1) if shared else values.swapaxes(0, 1), hidden


def choose(values: Array, masks: Array, epsilon: Array, chances: Array) -> Array:
    """As :func:`~rllib_agg.qmix.rollout.choose_actions`, from uniform numbers ``[2, E, n]``."""
    best = jnp.where(masks, values, -jnp.inf).argmax(-1)
    legal = masks.sum(-1)
    # A number just below 1 becomes 1 as a float of 32 bits.
    ranks = jnp.minimum((chances[1] * legal).astype(jnp.int32), legal - 1)
    drawn = (masks.cumsum(-1) > ranks[..., None]).argmax(-1)
    return jnp.where(chances[0] < epsilon, drawn, best).astype(jnp.int32)


program_of = functools.lru_cache(maxsize=8)(CompiledPlay)
"""One program for all users in a process: an algorithm, its env runner and its evaluation."""


def play_compiled(
    env: CompilableTeamEnv,
    world: Any,
    networks: AgentNetworks,
    epsilon: float,
    generator: np.random.Generator,
    seeds: NDArray[np.int64],
) -> Outcome:
    """Play an episode in each copy, with the random numbers that :class:`~rllib_agg.qmix.rollout.TeamPlayers` steps with.

    :param world: Of ``env.pure_world()``.
    """
    spec, copies, agents = env.spec, env.num_envs, env.spec.num_agents
    shape = (spec.max_episode_steps, 2, copies, agents)
    chances = generator.random(shape) if epsilon else np.zeros(shape)
    weights = {name: value.numpy() for name, value in networks.state_dict().items()}
    program = program_of(world, spec, copies, Kind.of(networks), env.credit == "contribution")
    found = program(weights, env.keys(seeds), epsilon, chances)
    if found["active"].any():
        raise too_long(spec)
    steps, lengths = int(found["steps"]), found["lengths"].astype(np.int64)

    def by_copy(name: str, rows: int) -> NDArray[Any]:
        return np.array(found[name][:rows].swapaxes(0, 1), order="C")

    masks, playing = by_copy("masks", steps + 1), np.arange(steps) < lengths[:, None]
    check_masks(masks[:, :-1][playing])
    rewards = np.where(playing, by_copy("rewards", steps), 0)
    earned = by_copy("agent_rewards", steps) if "agent_rewards" in found else np.repeat(rewards[..., None], agents, axis=-1)
    record = TeamEpisodes(
        observations=by_copy("observations", steps + 1),
        states=by_copy("states", steps + 1),
        masks=pack(masks),
        actions=by_copy("actions", steps).astype(action_dtype(spec.num_actions)),
        rewards=rewards,
        lengths=lengths,
        terminated=found["terminated"].copy(),
    )
    credits = np.where(playing[..., None], earned, 0).sum(1, dtype=np.float64)
    return record, credits, found["won"], np.zeros(copies, np.bool_)
