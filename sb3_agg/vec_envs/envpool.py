"""EnvPool's environments, which step in C++, as a vectorised environment of Stable-Baselines3. Axis A: agents."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from rl_agg.validation import check_count, unknown_choice

SET_HERE = ("env_type", "num_envs", "batch_size", "seed")
SEEDS = 2**31 - 1
"""EnvPool's seeds are signed 32-bit integers."""


class EnvPoolVecEnv(VecEnv):
    """A environments of EnvPool that step together and reset at the end of an episode, as SB3 expects.

    EnvPool itself resets at the next step, and ignores that step's action. Infos of finished episodes are those of Monitor:
    ``episode`` with return, length and time, of episodes and rewards under EnvPool's settings. Seeds set later take effect at
    the next reset.

    :param env_id: EnvPool's, in most cases the same as Gymnasium's.
    :param n_envs: A.
    :param seed: Agent a gets ``seed + a``, modulo the largest seed of EnvPool.
    :param env_kwargs: Arguments of ``envpool.make``; one thread unless ``num_threads`` says otherwise.
    :raises ImportError: naming the extra, if EnvPool is not installed.
    :raises ValueError: if the environment is unknown or its spaces are not supported, or EnvPool rejects an argument.

    Source: Weng et al. (2022).
    """

    def __init__(
        self, env_id: str, n_envs: int, *, seed: int | None = None, env_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        try:
            import envpool
        except ImportError as error:
            raise ImportError(f"envpool/{env_id} needs EnvPool: pip install 'rl-agg[envpool]'") from error
        check_count("n_envs", n_envs, least=1)
        known = envpool.list_all_envs()
        if env_id not in known:
            raise unknown_choice("EnvPool environment", env_id, known, summary=f"envpool.list_all_envs() has all {len(known)}")
        settings = {"num_threads": 1, **(env_kwargs or {})}
        for name in SET_HERE:
            if name in settings:
                raise ValueError(f"{name!r} is not a setting of envpool/{env_id}: it follows from the other arguments")
        self._make = partial(envpool.make, env_id, env_type="gymnasium", num_envs=n_envs, **settings)
        if "render_mode" in settings:
            raise ValueError(f"'render_mode' is not supported: envpool/{env_id} draws no pictures for Stable-Baselines3")
        if seed is not None:
            check_count("seed", seed, least=0)
        first = int(np.random.default_rng().integers(SEEDS)) if seed is None else seed
        try:
            observed, taken = self._open([first + agent for agent in range(n_envs)])
        except (TypeError, ValueError, AssertionError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"EnvPool cannot make {env_id} with {settings}: {reason}") from error
        super().__init__(n_envs, _space(env_id, observed), _space(env_id, taken))
        self._actions = np.empty(0)
        self._returns, self._lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)
        self._start = time.perf_counter()

    def _open(self, seeds: list[int]) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        """Make the environments, and return their observation and action space."""
        with warnings.catch_warnings():  # Gymnasium's, about the precision of EnvPool's bounds
            warnings.filterwarnings("ignore", message=".*precision lowered by casting", category=UserWarning)
            self._pool = self._make(seed=[seed % SEEDS for seed in seeds])
            return self._pool.observation_space, self._pool.action_space

    def reset(self) -> NDArray[Any]:
        """Reset all ``[A, ...]``, with the seeds that were set since the last reset."""
        if self._seeds[0] is not None:
            self._pool.close()
            self._open([seed for seed in self._seeds if seed is not None])
            self._reset_seeds()
        if any(self._options):
            raise ValueError(f"EnvPool's environments take no options, got {self._options}")
        self._returns[:], self._lengths[:] = 0, 0
        observations: NDArray[Any] = self._pool.reset()[0]
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Store the actions."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step, and reset where an episode is over."""
        observations, rewards, terminated, truncated, _ = self._pool.step(self._actions.astype(self.action_space.dtype))
        self._returns += rewards
        self._lengths += 1
        over = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = np.flatnonzero(over)
        if len(done):
            now = round(time.perf_counter() - self._start, 6)
            for agent in done.tolist():
                episode = {"r": round(float(self._returns[agent]), 6), "l": int(self._lengths[agent]), "t": now}
                infos[agent] = {
                    "episode": episode,
                    "terminal_observation": observations[agent].copy(),
                    "TimeLimit.truncated": bool(truncated[agent] and not terminated[agent]),
                }
            observations[done] = self._pool.reset(done.astype(np.int32))[0]
            self._returns[done], self._lengths[done] = 0, 0
        return observations, rewards.astype(np.float32), over, infos

    def close(self) -> None:
        """Close the environments."""
        self._pool.close()

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """True for Monitor, whose infos these are, and for no other wrapper."""
        return [issubclass(wrapper_class, Monitor)] * len(self._chosen(indices))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Only ``render_mode`` is available, because the environments are not in Python.

        :raises AttributeError: for any other.
        """
        if attr_name != "render_mode":
            raise AttributeError(f"EnvPool's environments have no attribute {attr_name!r} in Python")
        return [None] * len(self._chosen(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """:raises AttributeError: always, for the same reason."""
        raise AttributeError(f"EnvPool's environments have no attribute {attr_name!r} in Python")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """:raises AttributeError: always, for the same reason."""
        raise AttributeError(f"EnvPool's environments have no method {method_name!r} in Python")

    def _chosen(self, indices: Any) -> list[int]:
        return list(self._get_indices(indices))


def _space(env_id: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
    """EnvPool's space, with its lower bounds corrected."""
    if isinstance(space, spaces.Discrete):
        return space
    if not isinstance(space, spaces.Box):
        raise ValueError(f"envpool/{env_id} has a {type(space).__name__} space; only Box and Discrete are supported")
    kind: Any = space.dtype.type  # type: ignore[union-attr]
    if not issubclass(kind, np.floating):
        return space
    smallest = np.finfo(kind).tiny  # C++'s numeric_limits::min(), where EnvPool means that there is no bound
    return spaces.Box(np.where(space.low == smallest, -np.inf, space.low), space.high, space.shape, kind)
