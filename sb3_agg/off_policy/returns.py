"""Returns of each agent's recent episodes. Axes: A agents, W episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class RecentReturns:
    """Raw episodic returns of each agent's last W episodes.

    :param num_agents: A.
    :param window: W.
    """

    def __init__(self, num_agents: int, window: int) -> None:
        self.values = np.full((num_agents, window), np.nan)
        """The latest first ``[A, W]``; NaN where there was none yet, infinite where one was not finite."""
        self._means: NDArray[np.float64] | None = None

    def add(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_]) -> bool:
        """Record one step of all agents.

        :param infos: A dictionaries, where Monitor puts an episode's return.
        :param dones: ``[A]``.
        :return: Whether the return of every episode that ended was reported.
        """
        complete = True
        for agent in np.flatnonzero(dones):
            episode = infos[agent].get("episode")
            if episode is None:
                complete = False
                continue
            self._means = None
            self.values[agent, 1:] = self.values[agent, :-1]
            value = np.asarray(episode["r"]).item()
            self.values[agent, 0] = value if np.isfinite(value) else np.inf
        return complete

    def means(self) -> NDArray[np.float64]:
        """Mean of what is finite ``[A]``; NaN: still unknown; infinite: the last episode's is not finite.

        The same array until an episode ends.
        """
        if self._means is None:
            self._means = self._compute()
        return self._means

    def _compute(self) -> NDArray[np.float64]:
        finite = np.isfinite(self.values)
        counts = finite.sum(1)
        means = np.divide(
            np.where(finite, self.values, 0.0).sum(1), counts, out=np.full(len(counts), np.nan), where=counts > 0
        )
        return np.where(np.isinf(self.values[:, 0]), np.inf, means)

    def resized(self, num_agents: int, window: int) -> RecentReturns:
        """The same for other numbers of agents and episodes, as far as it is known."""
        other = RecentReturns(num_agents, window)
        known = self.values[:num_agents, :window]
        other.values[: known.shape[0], : known.shape[1]] = known
        return other
