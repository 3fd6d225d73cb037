"""Distances between gradients, and combiners that need nothing else. Axes: A agents, P parameters.

Measured from zero, distances follow from the products of the gradients. Where zero is far from all of them, or their squares
leave the range of float32, gradients are taken relative to the one of median norm, in a unit of its size: however large a
faulty gradient is, the distances among the others then lose no precision.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from rl_agg.combiners.base import Combiner

FAR = 1e3
"""In typical distances, how far a gradient may be away from the others before precision suffers."""


class DistanceCombiner(Combiner):
    """A weighted sum of the gradients, weighed by nothing but their distances from each other."""

    by_distance = True

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Sum the gradients by their weights."""
        distances = distances_of(gradients @ gradients.T)
        weights = None if distances is None else self.weigh(distances, num_masked=num_masked)
        return self.merge_relative(gradients, num_masked=num_masked) if weights is None else weights @ gradients

    @abstractmethod
    def merge_relative(self, gradients: Tensor, *, num_masked: int) -> Tensor:
        """Combine gradients whose distances from zero are too inexact, by :func:`relative_to_median`."""


def squared_distances(products: Tensor) -> Tensor:
    """Squared distances ``[A, A]`` from the products of any two gradients ``[A, A]``, infinite where they overflow."""
    squares = products.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2 * products).clamp(min=0)
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf).fill_diagonal_(0.0)


def distances_of(products: Tensor) -> Tensor | None:
    """Squared distances between gradients, measured from zero.

    :param products: Of any two gradients ``[A, A]``.
    :return: ``[A, A]``; ``None`` where zero is too far away for exact differences, or the numbers too large or small.
    """
    squares, distances = products.diagonal(), squared_distances(products)
    nearness = (distances.median(1).values / squares).median()  # of most gradients, whatever a few of them are
    near = nearness.clamp(max=1.0) * squares.median() > 1e-30
    return distances if bool((nearness > 0.01) & near & distances.sum().isfinite()) else None


def relative_to_median(gradients: Tensor) -> tuple[Tensor, Tensor | float, Tensor]:
    """The gradient of median norm ``[P]``, a unit, and all gradients in that unit relative to it ``[A, P]``."""
    norms = gradients.norm(dim=1)
    median = gradients[norms.argsort()[(len(norms) - 1) // 2]]
    relative = gradients - median
    largest = median.abs().max()
    if 1e-10 < float(largest) < 1e10 or not bool(largest > 0):
        return median, 1.0, relative
    # The squares of such numbers would leave the range of float32, and so may a faulty gradient in this unit
    return median, largest, (relative / largest).nan_to_num()
