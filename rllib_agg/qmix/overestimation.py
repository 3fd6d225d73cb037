"""Whether values have left what can be earned. Axes: k episodes, T time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.interface import Bools

PATIENCE = 10
"""Rounds of learning in a row with values above all that was earned, after which a warning is given."""


class ValueCheck:
    """Warns, once, where the mean of the values stays above the best return of all episodes in the replay.

    :param best: Computes that return, see :func:`best_return`; only called where the mean is above what it was before.
    """

    def __init__(self, best: Callable[[], float]) -> None:
        self._best, self._known = best, -np.inf
        self.rounds, self.warned = 0, False

    def check(self, mean_value: float) -> None:
        """Compare the mean of the values of a round of learning."""
        if mean_value > self._known:
            self._known = self._best()
        self.rounds = self.rounds + 1 if mean_value > self._known else 0
        if self.rounds == PATIENCE and not self.warned:
            self.warned = True
            warnings.warn(
                f"the mean of the values, {mean_value:.3g}, has been above the best return of all episodes in the replay, "
                f"{self._known:.3g}, for {PATIENCE} rounds: values run away. A higher td_lambda, a lower lr or "
                "reward_normalization='scale' help",
                UserWarning,
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """All that it knows and cannot compute again."""
        return {"rounds": self.rounds, "warned": self.warned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.rounds, self.warned, self._known = state["rounds"], state["warned"], -np.inf


def best_return(rewards: NDArray[Any], lengths: NDArray[np.int64], ended: Bools, gamma: float) -> float:
    """The best discounted return from any step on.

    An episode that was cut off and bootstrapped counts as if it had gone on with its own mean reward.

    :param rewards: ``[k, T]``.
    :param lengths: Steps of each episode ``[k]``.
    :param ended: Those that nothing follows ``[k]``.
    :param gamma: Discount; with 1 nothing follows any episode.
    """
    played = np.arange(rewards.shape[1]) < lengths[:, None]
    rewards = np.where(played, rewards, 0)
    onward = 0.0 if gamma == 1 else rewards.sum(1) / lengths / (1 - gamma)
    after, best = np.where(ended, 0, onward), -np.inf
    for now, playing in zip(rewards.T[::-1], played.T[::-1], strict=True):
        after = np.where(playing, now + gamma * after, after)
        best = max(best, float(after.max(where=playing, initial=-np.inf)))
    return best
