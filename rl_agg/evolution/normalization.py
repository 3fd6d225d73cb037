"""Observations on a common scale, from statistics in the agents' messages. Axes: k agents, D observation numbers.

An agent sends 2D + 1 numbers about its observations: their count, the sum of their differences from the broadcast mean, and
the sum of the squared differences. Mean and deviation are broadcast, 2D numbers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_DEVIATION = 1e-6
LARGEST = 5.0
"""Bound of normalised observations, as in Salimans et al.'s code."""


class ObservationStatistics:
    """Mean and standard deviation of all observations that were reported.

    :param size: D.
    """

    def __init__(self, size: int) -> None:
        self.count = 0.0
        self._mean = np.zeros(size)
        self._squares = np.zeros(size)  # summed squared differences from the mean

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean ``[D]``; 0 before the first report."""
        return self._mean.astype(np.float32)

    @property
    def deviation(self) -> NDArray[np.float32]:
        """Standard deviation ``[D]``; 1 before the first report."""
        if not self.count:
            return np.ones(len(self._mean), dtype=np.float32)
        return np.maximum(np.sqrt(self._squares / self.count), LEAST_DEVIATION).astype(np.float32)

    def add(self, reference: NDArray[np.float32], reports: NDArray[np.float32]) -> None:
        """Include reports, one after the other.

        :param reference: The broadcast mean ``[D]``, from which the agents took differences.
        :param reports: ``[k, 2D + 1]``.
        """
        size = len(self._mean)
        for report in reports.astype(np.float64):
            count, sums, squares = report[0], report[1 : size + 1], report[size + 1 :]
            if not count or not np.isfinite(report).all():
                continue
            mean = reference + sums / count
            spread = np.maximum(squares - sums**2 / count, 0.0)
            total = self.count + count
            difference = mean - self._mean
            self._squares += spread + difference**2 * (self.count * count / total)
            self._mean += difference * (count / total)
            self.count = total

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and squares."""
        return {"count": self.count, "mean": self._mean, "squares": self._squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.count = state["count"]
        self._mean, self._squares = state["mean"].copy(), state["squares"].copy()


def normalized(
    observations: NDArray[np.float32], mean: NDArray[np.float32], deviation: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Observations ``[k, D]`` less their mean, in standard deviations, clipped."""
    scaled: NDArray[np.float32] = np.clip((observations - mean) / deviation, np.float32(-LARGEST), np.float32(LARGEST))
    return scaled
