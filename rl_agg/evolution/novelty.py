r"""Searching for what has not been done before. Axes: S agents that sent a message, M entries of the archive, N numbers of
each.

With the behaviour :math:`b(\theta)` of an episode and the k entries of the archive that are nearest to it,

.. math:: n(\theta) = \frac{1}{k} \sum_{j = 1}^{k} \lVert b(\theta) - b_j \rVert_2, \qquad
    f_i = w \, f(F_i) + (1 - w) \, f(n_i)

where f is the rule that says how much a return counts; it is applied to returns and to novelties separately. In each update
the behaviour of the unperturbed parameters joins the archive, before novelties are taken.

Source: Conti et al. (2018), Improving Exploration in Evolution Strategies for Deep Reinforcement Learning via a Population of
Novelty-Seeking Agents, algorithms 1 to 3. Differs: one lineage of parameters, where the paper has a meta-population of M, of
which the more novel are chosen more often; and the unperturbed parameters run one episode in an update.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from rl_agg.evolution.behaviours import Behaviour, check_behaviour
from rl_agg.validation import check_count, check_number

Array = NDArray[np.float32]


class NoveltySearch:
    """NS-ES: novelty alone, w = 0.

    :param behaviour: See :data:`~rl_agg.evolution.behaviours.Behaviour`.
    :param neighbours: k >= 1; all entries, while there are fewer.
    :raises ValueError: if a setting is out of range.
    """

    reads_returns = False
    """Whether the server needs the agents' returns."""

    def __init__(self, *, behaviour: Behaviour = None, neighbours: int = 10) -> None:
        check_behaviour(behaviour)
        check_count("neighbours", neighbours, least=1)
        self.behaviour, self.neighbours = behaviour, neighbours
        self.weight = 0.0
        """w."""
        self.archive: Array = np.empty((0, 0), dtype=np.float32)
        """Behaviours ``[M, N]``."""
        self.size = 0
        """N, of the messages of the last update."""

    def note(self, behaviour: Array, fitness: float) -> None:
        """Add what the unperturbed parameters did to the archive; a restored one of another N starts afresh.

        :param behaviour: ``[N]``, finite.
        :param fitness: Their return.
        """
        self._fit(len(behaviour))
        self.archive = np.concatenate([self.archive, behaviour[None]])

    def novelties(self, behaviours: Array) -> NDArray[np.float64]:
        """Mean distance from the nearest entries ``[S]``; 0 while the archive is empty.

        :param behaviours: ``[S, N]``.
        """
        self.size = behaviours.shape[1]
        self._fit(self.size)
        if not len(self.archive) or not len(behaviours):
            return np.zeros(len(behaviours))
        distances = cdist(behaviours, self.archive)  # [S, M]
        nearest = min(self.neighbours, len(self.archive))
        found: NDArray[np.float64] = np.partition(distances, nearest - 1, axis=1)[:, :nearest].mean(axis=1)
        return found

    def _fit(self, size: int) -> None:
        if self.archive.shape[1] != size:
            self.archive = np.empty((0, size), dtype=np.float32)

    @property
    def measures(self) -> dict[str, float]:
        """Entries of the archive, its canonical bytes, and w."""
        return {
            "archive_size": float(len(self.archive)),
            "archive_bytes": float(self.archive.nbytes),
            "return_weight": self.weight,
        }

    def state_dict(self) -> dict[str, Any]:
        """The archive."""
        return {"archive": self.archive}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`, of another kind of novelty search too: its archive holds, if N is the same."""
        self.archive = state["archive"].copy()


class NoveltyAndReturn(NoveltySearch):
    """NSR-ES: novelty and return.

    :param behaviour: As for :class:`NoveltySearch`, as is ``neighbours``.
    :param weight: w in [0, 1].
    :raises ValueError: if a setting is out of range.
    """

    reads_returns = True

    def __init__(self, *, behaviour: Behaviour = None, neighbours: int = 10, weight: float = 0.5) -> None:
        check_number("weight", weight, least=0, most=1)
        super().__init__(behaviour=behaviour, neighbours=neighbours)
        self.weight = float(weight)


class AdaptiveNovelty(NoveltyAndReturn):
    """NSRA-ES: more weight on the return where it has grown, less where it has not for a while.

    :param behaviour: As for :class:`NoveltySearch`, as is ``neighbours``.
    :param weight: w in [0, 1] at first.
    :param change: By how much w changes, in (0, 1].
    :param patience: After how many updates without a best return w falls, >= 1.
    :raises ValueError: if a setting is out of range.
    """

    def __init__(
        self,
        *,
        behaviour: Behaviour = None,
        neighbours: int = 10,
        weight: float = 1.0,
        change: float = 0.05,
        patience: int = 50,
    ) -> None:
        check_number("change", change, above=0, most=1)
        check_count("patience", patience, least=1)
        super().__init__(behaviour=behaviour, neighbours=neighbours, weight=weight)
        self.change, self.patience = change, patience
        self._best, self._since_best = -math.inf, 0

    def note(self, behaviour: Array, fitness: float) -> None:
        """Add the behaviour, and adapt w to the return of the unperturbed parameters."""
        super().note(behaviour, fitness)
        if fitness > self._best:
            self._best, self._since_best = fitness, 0
            self.weight = min(1.0, self.weight + self.change)
            return
        self._since_best += 1
        if self._since_best >= self.patience:
            self._since_best = 0
            self.weight = max(0.0, self.weight - self.change)

    def state_dict(self) -> dict[str, Any]:
        """The archive, w, the best return, and for how long it has been the best."""
        return {**super().state_dict(), "weight": self.weight, "best": self._best, "since_best": self._since_best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; from another kind of novelty search, w is as at first."""
        super().load_state_dict(state)
        if "best" in state:
            self.weight, self._best, self._since_best = state["weight"], state["best"], state["since_best"]


NOVELTIES: dict[str, type[NoveltySearch]] = {"ns": NoveltySearch, "nsr": NoveltyAndReturn, "nsra": AdaptiveNovelty}
"""By name."""
