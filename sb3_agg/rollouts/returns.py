"""Returns and advantages of each agent in a rollout, and its length. Axes: T steps, A agents (sub-environments)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from rl_agg.advantages import standardized
from rl_agg.explained_variance import explained_share


class RolloutReturns:
    """Raw episodic returns of each agent within one rollout.

    :param num_agents: A.
    :param only_reported: Count only episodes whose return is reported, not each lost life that ends one for the agent.
    """

    def __init__(self, num_agents: int, *, only_reported: bool = False) -> None:
        self._only_reported = only_reported
        self.num_episodes = np.zeros(num_agents, dtype=np.int64)
        self._num_returns = np.zeros(num_agents, dtype=np.int64)
        self._sums = np.zeros(num_agents)

    def add(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_]) -> bool:
        """Record one step of all agents.

        :param infos: A dictionaries, where Monitor puts an episode's return.
        :param dones: ``[A]``.
        :return: Whether the return of every episode that ended was reported.
        """
        complete = True
        for agent in np.flatnonzero(dones):
            episode = infos[agent].get("episode")
            self.num_episodes[agent] += episode is not None or not self._only_reported
            if episode is None:
                complete = False
            else:
                self._num_returns[agent] += 1
                self._sums[agent] += np.asarray(episode["r"]).item()
        return complete

    def means(self, last: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean return of the episodes finished in this rollout.

        :param last: Last known return of each agent ``[A]``, NaN where it has none; stands in where no episode finished.
        :return: ``[A]`` in the environment's own units; NaN: still unknown; infinite: a NaN or infinite return was reported.
        """
        means = np.divide(self._sums, self._num_returns, out=last.copy(), where=self._num_returns > 0)
        return np.where((self._num_returns > 0) & ~np.isfinite(means), np.inf, means)


class RolloutLength(int):
    """A number of steps that grows until every agent has enough episodes.

    SB3's ``collect_rollouts`` evaluates ``n_steps < n_rollout_steps`` before each step. As a subclass of ``int`` on the
    right-hand side this object decides the comparison, and grows or trims the buffer with it.

    :param n_steps: The least T, per agent.
    """

    buffer: RolloutBuffer
    unfinished: Callable[[], bool]

    def __new__(cls, n_steps: int, buffer: RolloutBuffer, unfinished: Callable[[], bool]) -> RolloutLength:
        length = super().__new__(cls, n_steps)
        length.buffer, length.unfinished = buffer, unfinished
        buffer.buffer_size = n_steps  # the last rollout may have been longer
        return length

    def __gt__(self, n_steps: int) -> bool:
        collecting = n_steps < int(self) or self.unfinished()
        if not collecting:
            _resize(self.buffer, lambda array: array[:n_steps])
        elif n_steps == self.buffer.buffer_size:
            # Doubling copies existing rows, so that arrays that add() does not write keep their default (action masks)
            _resize(self.buffer, lambda array: np.concatenate([array, array]))
        return collecting


def _resize(buffer: RolloutBuffer, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    size = buffer.buffer_size
    for name, value in vars(buffer).items():
        if isinstance(value, np.ndarray) and value.shape[:1] == (size,):
            setattr(buffer, name, change(value))
        elif isinstance(value, dict) and all(isinstance(item, np.ndarray) for item in value.values()):
            setattr(buffer, name, {key: change(item) for key, item in value.items()})
    buffer.buffer_size = len(buffer.rewards)


def by_agent(array: NDArray[Any], buffer: RolloutBuffer) -> NDArray[Any]:
    """View a buffer's array agent by agent.

    :param array: ``[T, A, ...]`` while collecting, ``[A * T, ...]`` once SB3 has flattened it.
    :return: ``[A, T, ...]``, sharing memory.
    """
    if buffer.generator_ready:
        return array.reshape(buffer.n_envs, buffer.buffer_size, *array.shape[1:])
    return array.swapaxes(0, 1)


def finite_agents(buffer: RolloutBuffer) -> NDArray[np.bool_]:
    """Find the agents whose rollouts hold finite numbers only.

    :return: ``[A]``, bool. Rewards and values are covered by advantages and returns.
    """
    observations = buffer.observations
    arrays = list(observations.values()) if isinstance(observations, dict) else [observations]
    finite = np.ones(buffer.n_envs, dtype=bool)
    for array in (*arrays, buffer.advantages, buffer.returns, buffer.log_probs):
        if np.issubdtype(array.dtype, np.floating):
            rows = by_agent(array, buffer)
            finite &= np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    return finite


def explained_variance(buffer: RolloutBuffer) -> Tensor:
    """How much of the variance of each agent's returns the critic explains ``[A]``, float64, see :func:`explained_share`."""
    arrays = (by_agent(array, buffer).reshape(buffer.n_envs, -1) for array in (buffer.returns, buffer.values))
    returns, values = (torch.as_tensor(array).double() for array in arrays)
    errors, spread = ((rows - rows.mean(1, keepdim=True)).square().sum(1) for rows in (returns - values, returns))
    return explained_share(errors, spread, returns.square().sum(1))


def normalize_advantages_per_agent(buffer: RolloutBuffer) -> None:
    """Give each agent's advantages mean 0 and standard deviation 1 over its whole rollout, in place.

    Over the rollout, not the minibatch as SB3 does: an agent's part of a minibatch may be a single sample. With one minibatch
    per rollout, as in Holen et al. (2023), the two are the same.
    """
    advantages = by_agent(buffer.advantages, buffer)  # [A, T]
    with np.errstate(invalid="ignore"):  # masked agents carry NaN
        mean = advantages.mean(axis=1, keepdims=True)
        squares = np.square(advantages - mean).sum(axis=1, keepdims=True)
        advantages[...] = standardized(advantages, mean, squares, advantages.shape[1])
