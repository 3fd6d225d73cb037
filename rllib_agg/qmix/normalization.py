"""Rewards and states on a common scale, by what recent episodes had. Axes: k episodes, T time, s size of the state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_agg.qmix.episodes import TeamEpisodes

LARGEST_STATE = 10.0
"""Of a normalised state, in deviations: what was constant so far may change at once."""

REWARDS = ("scale", "standardize")
"""Divide by the deviation; and subtract the mean first."""


class RunningMoments:
    """Mean and deviation of d numbers, over as many recent episodes as ``horizon``.

    :param size: d.
    :param horizon: Episodes after which what is older counts 1/e.
    """

    def __init__(self, size: int, horizon: int) -> None:
        self._sums, self._horizon = np.zeros((3, size)), horizon

    def add(self, rows: NDArray[Any], num_episodes: int) -> None:
        """Count rows ``[N, d]`` of some episodes."""
        rows = rows.astype(np.float64)
        self._sums *= (1 - 1 / self._horizon) ** num_episodes
        self._sums += [np.full(rows.shape[1], len(rows)), rows.sum(0), np.square(rows).sum(0)]

    @property
    def mean(self) -> NDArray[np.float64]:
        """``[d]``; 0 before the first rows."""
        count, total, _ = self._sums
        mean: NDArray[np.float64] = total / np.maximum(count, 1)
        return mean

    @property
    def deviation(self) -> NDArray[np.float64]:
        """``[d]``; 1 where numbers do not differ."""
        count, _, squares = self._sums
        variance = squares / np.maximum(count, 1) - np.square(self.mean)
        constant = variance <= 1e-10 * (1 + np.square(self.mean))  # what rounding leaves
        return np.sqrt(np.where(constant, 1, variance))

    def state_dict(self) -> NDArray[np.float64]:
        """A copy of all that it knows ``[3, d]``."""
        return self._sums.copy()

    def load_state_dict(self, sums: NDArray[np.float64]) -> None:
        """Restore :meth:`state_dict`."""
        self._sums = np.array(sums)


class TeamNormalizer:
    """What the learner sees of rewards and states.

    :param state_size: s.
    :param rewards: One of :data:`REWARDS`; ``None``: as they are.
    :param reward_scale: A factor, after that.
    :param states: Whether states are standardised.
    :param horizon: Of the moments, in episodes.
    """

    def __init__(self, state_size: int, *, rewards: str | None, reward_scale: float, states: bool, horizon: int) -> None:
        self._rewards, self._factor, self._states = rewards, reward_scale, states
        self.of_rewards, self.of_states = RunningMoments(1, horizon), RunningMoments(state_size, horizon)

    def observe(self, episodes: TeamEpisodes) -> None:
        """Count new episodes."""
        count, steps = len(episodes), episodes.rewards.shape[1]
        if self._rewards:
            self.of_rewards.add(episodes.rewards[np.arange(steps) < episodes.lengths[:, None]][:, None], count)
        if self._states:
            self.of_states.add(episodes.states[np.arange(steps + 1) <= episodes.lengths[:, None]], count)

    def apply(self, episodes: TeamEpisodes) -> TeamEpisodes:
        """Episodes with rewards and states as learned from; rows after an episode's end are without meaning."""
        return dataclasses.replace(episodes, rewards=self.rewards(episodes.rewards), states=self.states(episodes.states))

    def rewards(self, rewards: NDArray[Any]) -> NDArray[np.float32]:
        """Rewards of any shape."""
        if self._rewards is None:
            return (self._factor * rewards).astype(np.float32)
        shift = self.of_rewards.mean if self._rewards == "standardize" else 0.0
        return (self._factor * (rewards - shift) / self.of_rewards.deviation).astype(np.float32)

    def states(self, states: NDArray[Any]) -> NDArray[Any]:
        """States ``[k, T+1, s]``."""
        if not self._states:
            return states
        shift, factor = (array.astype(np.float32) for array in (self.of_states.mean, 1 / self.of_states.deviation))
        bounded: NDArray[np.float32] = np.clip((states - shift) * factor, -LARGEST_STATE, LARGEST_STATE, dtype=np.float32)
        return bounded

    def state_dict(self) -> dict[str, NDArray[np.float64]]:
        """The moments."""
        return {"rewards": self.of_rewards.state_dict(), "states": self.of_states.state_dict()}

    def load_state_dict(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Restore :meth:`state_dict`."""
        self.of_rewards.load_state_dict(state["rewards"])
        self.of_states.load_state_dict(state["states"])
