"""Stepping many copies of an environment in one process. Axes: B copies, k active ones."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

import rl_agg.envs  # noqa: F401  registers our environments
from rl_agg.population.time_limits import time_limit
from rl_agg.validation import check_count

Indices = NDArray[np.int64]
Stepped = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]
"""Observations, rewards, terminated and truncated, of the stepped copies."""


class Environments(Protocol):
    """Copies of one environment."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    max_episode_steps: int | None

    def reset(self, seeds: Indices) -> Any:
        """Begin an episode in one copy for each seed.

        :return: First observations, a batch of B.
        """

    def step(self, active: Indices, actions: NDArray[Any]) -> Stepped:
        """Step some of the copies.

        :param active: Their indices ``[k]``, ascending.
        :param actions: A batch of k.
        """

    def close(self) -> None:
        """Close all copies."""


class ListedEnvironments:
    """A list of environments, stepped one after the other.

    :param make: Makes one environment.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]]) -> None:
        self._make = make
        self._environments = [make()]
        self.observation_space, self.action_space = self.first.observation_space, self.first.action_space
        self.max_episode_steps = time_limit(self.first)
        self._is_discrete = isinstance(self.action_space, gym.spaces.Discrete)

    @property
    def first(self) -> gym.Env[Any, Any]:
        """One of them."""
        return self._environments[0]

    def reset(self, seeds: Indices) -> list[Any]:
        """Begin an episode in one environment for each seed."""
        while len(self._environments) < len(seeds):
            self._environments.append(self._make())
        return [env.reset(seed=seed)[0] for env, seed in zip(self._environments, seeds.tolist(), strict=False)]

    def step(self, active: Indices, actions: NDArray[Any]) -> Stepped:
        """Step the active ones only."""
        chosen = actions.tolist() if self._is_discrete else actions
        environments = self._environments
        stepped = [environments[index].step(action) for index, action in zip(active.tolist(), chosen, strict=True)]
        observations, rewards, terminated, truncated, _ = zip(*stepped, strict=True)
        ends = np.array(terminated, dtype=np.bool_), np.array(truncated, dtype=np.bool_)
        return observations, np.array(rewards, dtype=np.float64), *ends

    def close(self) -> None:
        """Close all copies."""
        for env in self._environments:
            env.close()  # type: ignore[no-untyped-call]


def _start_cart_poles(env: Any, seeds: Indices) -> NDArray[np.float32]:
    """The numbers of CartPoleEnv.reset(seed), for each copy from its own seed."""
    env.reset()
    drawn = [seeding.np_random(seed)[0].uniform(low=-0.05, high=0.05, size=4) for seed in seeds.tolist()]
    env.state[...] = np.stack(drawn, axis=1)
    observations: NDArray[np.float32] = env.state.T.astype(np.float32)
    return observations


VECTOR_STARTS: dict[str, Callable[[Any, Indices], Any]] = {
    "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv": _start_cart_poles
}
"""Resets by vector entry point, which begin an episode in each copy from its own seed. Gymnasium's ``reset`` of a vector
environment has one seed for all, so that an agent's episode would depend on the others. Users may add their own."""


class VectorEnvironments:
    """An environment's own vector entry point; finished copies are stepped too, and ignored.

    :param id_: Gymnasium's id; its vector entry point must be in :data:`VECTOR_STARTS`.
    :param settings: Arguments of ``gymnasium.make_vec``.
    """

    def __init__(self, id_: str, settings: Mapping[str, Any]) -> None:
        self._id, self._settings = id_, dict(settings)
        spec = gym.spec(id_)
        self._start = VECTOR_STARTS[str(spec.vector_entry_point)]
        self._by_size: dict[int, Any] = {}
        one = self._sized(1)
        self.observation_space, self.action_space = one.single_observation_space, one.single_action_space
        self.max_episode_steps = self._settings.get("max_episode_steps", spec.max_episode_steps)

    def reset(self, seeds: Indices) -> Any:
        """Begin an episode in each copy."""
        self._env = self._sized(len(seeds))
        self._actions = np.zeros(self._env.action_space.shape, dtype=self._env.action_space.dtype)
        return self._start(self._env, seeds)

    def step(self, active: Indices, actions: NDArray[Any]) -> Stepped:
        """Step all copies, and return the results of the active ones."""
        self._actions[active] = actions
        observations, rewards, terminated, truncated, _ = self._env.step(self._actions)
        if len(active) == len(observations):
            return observations, rewards, terminated, truncated
        return observations[active], rewards[active], terminated[active], truncated[active]

    def close(self) -> None:
        """Close all copies."""
        for env in self._by_size.values():
            env.close()

    def _sized(self, size: int) -> Any:
        if size not in self._by_size:
            made = gym.make_vec(self._id, num_envs=size, vectorization_mode="vector_entry_point", **self._settings)
            self._by_size[size] = made.unwrapped
        return self._by_size[size]


def open_environments(environment: str | Callable[[], gym.Env[Any, Any]], settings: Mapping[str, Any]) -> Environments:
    """Make the vector entry point of an environment if it is in :data:`VECTOR_STARTS`, else a list.

    :param environment: Gymnasium's id, or a function that makes one.
    :param settings: Arguments of ``gymnasium.make``; with a function, none.
    """
    if callable(environment):
        return ListedEnvironments(environment)
    if ":" in environment:  # as in gymnasium.make: the module that registers it
        module, environment = environment.split(":")
        importlib.import_module(module)
    spec = gym.spec(environment)
    unlimited = settings.get("max_episode_steps") == -1  # Gymnasium's, but not of vector entry points
    has_vectors = hasattr(gym, "VectorizeMode") and str(spec.vector_entry_point) in VECTOR_STARTS  # from Gymnasium 1.0 on
    if has_vectors and not spec.additional_wrappers and not unlimited:
        return VectorEnvironments(environment, settings)
    return ListedEnvironments(lambda: gym.make(environment, disable_env_checker=True, **settings))


def most_steps(environments: Environments, max_episode_steps: int | None) -> int:
    """The largest number of steps of an episode.

    :param max_episode_steps: The user's; ``None``: the environment's own.
    :raises ValueError: if there is no limit, or it is below 1.
    """
    if max_episode_steps is not None:
        check_count("max_episode_steps", max_episode_steps, least=1)
        return max_episode_steps
    if environments.max_episode_steps is None:
        raise ValueError(
            "the environment has no time limit, so that an episode may never end; register it with max_episode_steps, "
            "wrap it in gymnasium.wrappers.TimeLimit, or set max_episode_steps"
        )
    return environments.max_episode_steps
