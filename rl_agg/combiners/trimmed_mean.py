"""Combiners that sort each parameter's gradients. Axes: A agents, P parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rl_agg.combiners.base import Combiner
from rl_agg.combiners.byzantine import Byzantine
from rl_agg.combiners.sorting import trimmed_mean


@dataclass(frozen=True)
class Median(Combiner):
    """The median of every parameter's gradients; between the two middle ones for an even number.

    Source: Yin et al. (2018), definition 1.
    """

    by_parameter = True

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """The mean of what is left when all but the middle one or two are trimmed."""
        return trimmed_mean(gradients, (len(gradients) - 1) // 2)


@dataclass(frozen=True)
class TrimmedMean(Byzantine):
    """The mean of every parameter's gradients without its f largest and f smallest.

    :param num_byzantine: f, less than half of the agents.

    Source: Yin et al. (2018), definition 2.
    """

    name = "trimmed_mean"
    by_parameter = True

    @staticmethod
    def most_byzantine(num_agents: int) -> int:
        """Something must be left to average."""
        return (num_agents - 1) // 2

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Sort each parameter's gradients and average the middle."""
        return trimmed_mean(gradients, self.tolerated(len(gradients), num_masked))
