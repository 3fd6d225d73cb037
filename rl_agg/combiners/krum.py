"""Krum and multi-Krum. Axes: A agents, P parameters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_agg.combiners.byzantine import Byzantine
from rl_agg.combiners.distances import DistanceCombiner, relative_to_median, squared_distances
from rl_agg.validation import check_count


@dataclass(frozen=True)
class Krum(DistanceCombiner, Byzantine):
    r"""The gradient with the nearest neighbours, or the mean of several such (multi-Krum).

    :math:`s_a = \sum_{b \to a} \lVert g_a - g_b \rVert^2` over the :math:`A - f - 2` nearest neighbours of a; the
    gradients of the smallest scores are averaged.

    :param num_byzantine: f; :math:`A \ge 2f + 3`.
    :param num_selected: How many gradients are averaged, 1 to A; 1 is Krum, more is multi-Krum.

    Source: Blanchard et al. (2017), section 4.
    """

    name = "krum"

    num_selected: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_selected", self.num_selected, least=1)

    @staticmethod
    def most_byzantine(num_agents: int) -> int:
        """The bound of its proof."""
        return (num_agents - 3) // 2

    def check(self, num_agents: int) -> None:
        """Raise if A agents do not allow f or the selection."""
        super().check(num_agents)
        if self.num_selected > num_agents:
            raise ValueError(f"krum cannot select num_selected={self.num_selected} of {num_agents} agents")

    def weigh(self, squared_distances: Tensor, *, num_masked: int) -> Tensor:
        """Equal weights for the gradients of the smallest scores, zero for the others."""
        num_agents = len(squared_distances)
        if num_agents < 3:  # no neighbours to compare
            return squared_distances.new_full((num_agents,), 1.0 / num_agents)
        num_neighbours = max(1, num_agents - self.tolerated(num_agents, num_masked) - 2)
        squared_distances.fill_diagonal_(torch.inf)  # a gradient is not its own neighbour
        scores = squared_distances.topk(num_neighbours, largest=False).values.sum(1)
        selected = scores.topk(min(self.num_selected, num_agents), largest=False).indices
        return torch.zeros_like(scores).index_fill_(0, selected, 1.0 / len(selected))

    def merge_relative(self, gradients: Tensor, *, num_masked: int) -> Tensor:
        """The same, by distances that are exact."""
        _, _, relative = relative_to_median(gradients)
        return self.weigh(squared_distances(relative @ relative.T), num_masked=num_masked) @ gradients
