"""The agents' noise, drawn again wherever it is needed. Axes: k agents, P parameters."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rl_agg.seeding import stream

NUMBERS_AT_ONCE = 2**24
"""Limit of the noise in memory at a time, 64 MiB; that of a large network is drawn in parts."""


class Perturbations:
    """Standard Gaussian noise of a run's agents.

    :param run: See :mod:`rl_agg.seeding`.
    :param num_parameters: P.
    :param antithetic: Agents 2j and 2j + 1 have the same noise with opposite signs.
    """

    def __init__(self, run: int, num_parameters: int, *, antithetic: bool) -> None:
        self.run = run
        self.num_parameters = num_parameters
        self.antithetic = antithetic

    def draw(self, update: int, agents: NDArray[np.integer]) -> NDArray[np.float32]:
        """The noise of some agents ``[k, P]``."""
        noise = np.empty((len(agents), self.num_parameters), dtype=np.float32)
        last = -1
        for row, agent in enumerate(agents.tolist()):
            pair, odd = divmod(agent, 2) if self.antithetic else (agent, 0)
            if odd and last == agent - 1:
                np.negative(noise[row - 1], out=noise[row])
            else:
                stream("noise", self.run, update, pair).standard_normal(out=noise[row], dtype=np.float32)
                if odd:
                    np.negative(noise[row], out=noise[row])
            last = agent
        return noise

    def parts(self, update: int, agents: NDArray[np.integer]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """:meth:`draw` in parts of bounded size, the same parts for the same agents."""
        size = max(2, NUMBERS_AT_ONCE // self.num_parameters)
        for start in range(0, len(agents), size):
            part = slice(start, min(start + size, len(agents)))
            yield part, self.draw(update, agents[part])


def norms(noise: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean norm of each row ``[k]``."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("kp,kp->k", noise, noise, dtype=np.float64))
    return lengths
