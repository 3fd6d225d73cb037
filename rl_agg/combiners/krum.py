"""Krum and multi-Krum. Axes: A agents, P parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_agg.combiners.byzantine import Byzantine
from rl_agg.combiners.distances import distances_of, seen_from_the_middle, squared_distances
from rl_agg.validation import check_count


@dataclass(frozen=True)
class Krum(Byzantine):
    r"""The gradient with the nearest neighbours, or the mean of several such (multi-Krum).

    :math:`s_a = \sum_{b \to a} \lVert g_a - g_b \rVert^2` over the :math:`A - f - 2` nearest neighbours of a; the
    gradients of the smallest scores are averaged.

    :param num_byzantine: f; :math:`A \ge 2f + 3`.
    :param num_selected: How many gradients are averaged, 1 to A; 1 is Krum, more is multi-Krum.

    Source: Blanchard et al. (2017), section 4.
    """

    name = "krum"
    by_distance = True

    num_selected: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_selected", self.num_selected, least=1)

    @staticmethod
    def most_byzantine(num_agents: int) -> int:
        """The bound of its proof."""
        return (num_agents - 3) // 2

    def check(self, num_agents: int) -> None:
        """Refuse an f or a selection that A agents do not allow."""
        super().check(num_agents)
        if self.num_selected > num_agents:
            raise ValueError(f"krum cannot select num_selected={self.num_selected} of {num_agents} agents")

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Average the gradients of the smallest scores."""
        distances = distances_of(gradients @ gradients.T)
        if distances is None:
            distances = squared_distances(seen_from_the_middle(gradients)[2])
        return gradients[self._chosen(distances, num_masked)].mean(0)

    def weigh(self, squared_distances: Tensor, *, num_masked: int) -> Tensor:
        """Weigh those of the smallest scores alike, the others not at all."""
        chosen = self._chosen(squared_distances, num_masked)
        return squared_distances.new_zeros(len(squared_distances)).index_fill_(0, chosen, 1.0 / len(chosen))

    def _chosen(self, distances: Tensor, num_masked: int) -> Tensor:
        num_agents = len(distances)
        if num_agents < 3:  # no neighbours to be near to
            return torch.arange(num_agents, device=distances.device)
        num_neighbours = max(1, num_agents - self.tolerated(num_agents, num_masked) - 2)
        distances.fill_diagonal_(torch.inf)  # nobody is their own neighbour
        scores = distances.topk(num_neighbours, largest=False).values.sum(1)
        return scores.topk(min(self.num_selected, num_agents), largest=False).indices
