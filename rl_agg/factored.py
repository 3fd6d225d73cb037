"""Gradients as factors, merged by their distances without being multiplied out. Axes: A agents, P parameters."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rl_agg.combiners import Combiner
from rl_agg.combiners.distances import distances_of


class Factored(Protocol):
    """Gradients that need not be multiplied out to be weighed by their distances."""

    def products(self) -> Tensor | None:
        """Of any two of them ``[A, A]``; ``None`` where it is less work to multiply them out."""

    def weighted(self, weights: Tensor) -> Tensor:
        """Their sum ``[P]``, each times its weight ``[A]``."""

    def matrix(self, *, by_parameter: bool) -> Tensor:
        """All of them ``[A, P]``.

        :param by_parameter: Whether a parameter's gradients should be adjacent in memory.
        """


def merge_factored(combiner: Combiner, gradients: Factored) -> Tensor | None:
    """Merge gradients by their distances.

    :param combiner: One for a step, see :meth:`Combiner.at`.
    :param gradients: Of agents that are all present.
    :return: ``[P]``; ``None`` if the combiner has to see the gradients.
    """
    products = gradients.products() if combiner.by_distance else None
    distances = None if products is None else distances_of(products)
    weights = None if distances is None else combiner.weigh(distances, num_masked=0)
    return None if weights is None else gradients.weighted(weights)
