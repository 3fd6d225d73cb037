"""The geometric median. Axes: A agents, P parameters."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl_agg.combiners.distances import FAR, DistanceCombiner, relative_to_median, squared_distances
from rl_agg.validation import check_count, check_number


@dataclass(frozen=True)
class GeometricMedian(DistanceCombiner):
    r"""The point with the least sum of distances to all gradients, by Weiszfeld's iteration.

    :math:`z \leftarrow \sum_a w_a g_a / \sum_a w_a, \quad w_a = 1 / \max(\nu, \lVert g_a - z \rVert)`

    An iteration works on the A distances, not on P parameters, since z is always a weighted sum of the gradients.

    :param num_iterations: Further ones, beyond a first guess, >= 1.
    :param smoothing: :math:`\nu` > 0, in units of a typical distance between two gradients.

    Source: Pillutla et al. (2022), algorithm 2. Differs: smoothing is relative, as gradients have no scale of their own. The
    first guess weighs each gradient by its median distance from the others instead of all alike: from their mean, a faulty
    gradient far enough away would need more iterations than there are.
    """

    num_iterations: int = 10
    smoothing: float = 1e-6

    def __post_init__(self) -> None:
        check_count("num_iterations", self.num_iterations, least=1)
        check_number("smoothing", self.smoothing, above=0)

    def merge_relative(self, gradients: Tensor, *, num_masked: int) -> Tensor:
        """The same, for gradients that may be very far away: only their direction counts, but distance costs precision."""
        median, unit, relative = relative_to_median(gradients)
        relative = _drawn_near(relative)
        return median + unit * (self._weights(squared_distances(relative @ relative.T)).to(relative) @ relative)

    def weigh(self, squared_distances: Tensor, *, num_masked: int) -> Tensor | None:
        """Weights that Weiszfeld's iteration ends at; ``None`` if some gradients are very far away."""
        if bool(squared_distances.max() > FAR**2 * squared_distances.median(1).values.median()):
            return None
        return self._weights(squared_distances).to(squared_distances)

    def _weights(self, squared_distances: Tensor) -> Tensor:
        if len(squared_distances) < 3:  # every point between two is one
            return squared_distances.new_full((len(squared_distances),), 1.0 / len(squared_distances))
        # An [A, A] matrix is too small for anything but the CPU; float64 keeps the distances when others are far larger
        squared = squared_distances.double().cpu().numpy()
        to_others = np.sort(squared, axis=1)[:, (len(squared) - 1) // 2]
        least = self.smoothing * np.sqrt(np.sort(to_others)[(len(squared) - 1) // 2])
        if least == 0.0:  # most gradients are the same, and so is the median
            same = to_others == 0.0
            return torch.from_numpy(same / same.sum())
        distances = np.sqrt(to_others)
        for _ in range(self.num_iterations):
            weights = 1.0 / np.maximum(distances, least)
            weights /= weights.sum()
            to_each = squared @ weights
            distances = np.sqrt(np.maximum(to_each - 0.5 * (weights @ to_each), 0.0))
        weights = 1.0 / np.maximum(distances, least)
        return torch.from_numpy(weights / weights.sum())


def _drawn_near(relative: Tensor) -> Tensor:
    """Gradients ``[A, P]`` of which those farther than :data:`FAR` are scaled down to it."""
    norms = relative.norm(dim=1)
    farthest = FAR * norms.median()
    far = norms > farthest
    if not bool(far.any()) or not bool(farthest > 0):
        return relative
    largest = relative[far].abs().amax(1, keepdim=True)  # their norm may overflow
    unit = relative[far] / largest
    relative[far] = unit * (farthest / unit.norm(dim=1, keepdim=True))
    return relative
