"""The trimmed mean of every parameter. Axes: A agents, P parameters."""

from dataclasses import dataclass

from torch import Tensor

from rl_agg.combiners.byzantine import Byzantine
from rl_agg.combiners.sorting import trimmed_mean


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
        """At least one gradient must be left to average."""
        return (num_agents - 1) // 2

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Sort each parameter's gradients and average the middle."""
        return trimmed_mean(gradients, self.tolerated(len(gradients), num_masked))
