r"""What the server sees when it compares the agents' vectors. Axes: A agents, P numbers of each.

All of it follows from the inner products of any two, :math:`G_{ab} = g_a \cdot g_b`.
"""

from collections.abc import Collection

import torch
from torch import Tensor

ROUNDING = 1e-12
"""Squares this much smaller than those they are a difference of are rounding errors."""


def agreement(products: Tensor) -> Tensor:
    r"""Cosine of each vector with the mean direction of the others.

    :math:`c_a = \cos(g_a, \sum_{b \ne a} g_b / \lVert g_b \rVert)`

    Directions, so that one who sends a vector ten times as long has no larger part in what the others are compared with.

    :param products: G ``[A, A]``, float64.
    :return: ``[A]`` in [-1, 1]; NaN for a vector of zeros, or if the others' directions cancel out.
    """
    norms = products.diagonal().sqrt()
    units = (products / norms[:, None] / norms[None]).nan_to_num()
    own, rows = units.diagonal(), units.sum(1)
    squared = units.sum() - 2 * rows + own  # of the sum of the others' directions
    cosines = ((rows - own) / squared.clamp(min=0).sqrt()).clamp(-1, 1)
    return cosines.where((norms > 0) & (squared > ROUNDING * len(units)), torch.nan)


def noise(products: Tensor) -> Tensor:
    r"""Variance of each vector around a common expectation, in units of the agents' mean.

    With :math:`D_{ab} = \lVert g_a - g_b \rVert^2`, whose expectation is :math:`\sigma_a^2 + \sigma_b^2` where noise is
    independent,

    .. math:: \hat\sigma_a^2 = \frac{1}{A - 2} \Bigl( \sum_b D_{ab} - \frac{\sum_{bc} D_{bc}}{2 (A - 1)} \Bigr)

    :param products: G ``[A, A]``, float64.
    :return: ``[A]`` of mean 1, unbiased, so that some may be negative; NaN with fewer than three vectors, or if all are the
        same.

    Source: Gray and Allan (1974), the three-cornered hat, for A corners.
    """
    num_agents, squares = len(products), products.diagonal()
    distances = (squares[:, None] + squares[None] - 2 * products).clamp(min=0)
    total = distances.sum()
    if num_agents < 3 or not bool(total > ROUNDING * squares.sum()):
        return torch.full_like(squares, torch.nan)
    mean = total / (2 * (num_agents - 1))  # of the variances, times A
    return (distances.sum(1) - mean) / (num_agents - 2) * (num_agents / mean)


def norms(products: Tensor) -> Tensor:
    r"""Length of each vector, :math:`\lVert g_a \rVert`.

    :param products: G ``[A, A]``, float64.
    :return: ``[A]``.
    """
    return products.diagonal().sqrt()


COMPARISONS = {"agreement": agreement, "noise": noise, "norms": norms}
"""By the name of the signal."""


def compare(vectors: Tensor, counts: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """Compare the vectors that count.

    :param vectors: ``[A, P]``.
    :param counts: Whose are compared ``[A]``, bool; they are finite.
    :param names: Of :data:`COMPARISONS`.
    :return: A signal for each name ``[A]``, float64; NaN where a vector does not count.
    """
    rows = vectors[counts].double()  # in which no square of a float32 number is too large or small
    products = rows @ rows.T
    found = {}
    for name in names:
        values = torch.full((len(vectors),), torch.nan, dtype=torch.float64, device=vectors.device)
        if len(rows):
            values[counts] = COMPARISONS[name](products)
        found[name] = values
    return found
