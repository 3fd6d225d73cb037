"""The median of every parameter. Axes: A agents, P parameters."""

from dataclasses import dataclass

from torch import Tensor

from rl_agg.combiners.base import Combiner
from rl_agg.combiners.sorting import trimmed_mean


@dataclass(frozen=True)
class Median(Combiner):
    """The median of every parameter's gradients; between the two middle ones for an even number.

    Source: Yin et al. (2018), definition 1.
    """

    by_parameter = True

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """The mean of the middle one or two."""
        return trimmed_mean(gradients, (len(gradients) - 1) // 2)
