"""Distances between gradients. Axes: A agents, P parameters.

As seen from zero they cost nothing but the products of the gradients. Where zero is far from all of them, or their squares
leave the range of float32, they are seen from the gradient of median norm, in a unit of its size: however large a faulty
gradient is, it then costs the distances among the others no precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAR = 1e3
"""In typical distances, how far a gradient may be away from the others before precision suffers."""


def distances_of(products: Tensor) -> Tensor | None:
    """Squared distances between gradients, as seen from zero.

    :param products: Of any two gradients ``[A, A]``.
    :return: ``[A, A]``; ``None`` where zero is too far away to tell them from there, or the numbers too large or small.
    """
    squares = products.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2 * products).clamp(min=0).fill_diagonal_(0.0)
    nearness = (distances.median(1).values / squares).median()  # of most gradients, whatever a few of them are
    near = nearness.clamp(max=1.0) * squares.median() > 1e-30
    return distances if bool((nearness > 0.01) & near & distances.sum().isfinite()) else None


def seen_from_the_middle(gradients: Tensor) -> tuple[Tensor, Tensor | float, Tensor]:
    """The gradient of median norm ``[P]``, a unit, and all gradients in that unit as seen from it ``[A, P]``."""
    norms = gradients.norm(dim=1)
    middle = gradients[norms.argsort()[(len(norms) - 1) // 2]]
    relative = gradients - middle
    largest = middle.abs().max()
    if 1e-10 < float(largest) < 1e10 or not bool(largest > 0):
        return middle, 1.0, relative
    # The squares of such numbers would leave the range of float32, and so may a faulty gradient in this unit
    return middle, largest, (relative / largest).nan_to_num()


def drawn_near(relative: Tensor) -> Tensor:
    """Gradients ``[A, P]`` of which the far ones are nearer: only their direction counts, but distance costs precision."""
    norms = relative.norm(dim=1)
    farthest = FAR * norms.median()
    far = norms > farthest
    if not bool(far.any()) or not bool(farthest > 0):
        return relative
    largest = relative[far].abs().amax(1, keepdim=True)  # their norm may overflow
    unit = relative[far] / largest
    relative[far] = unit * (farthest / unit.norm(dim=1, keepdim=True))
    return relative


def squared_distances(relative: Tensor) -> Tensor:
    """``[A, P]`` to ``[A, A]``, infinite where they overflow."""
    products = relative @ relative.T
    squares = products.diagonal()
    distances = squares[:, None] + squares[None, :] - 2 * products
    distances = distances.clamp(min=0).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return distances.fill_diagonal_(0.0)
