"""The control that a gate must outperform. Axis A: agents."""

import torch
from torch import Tensor

from rl_agg.gates.base import Offer, VectorGate
from rl_agg.gates.scores import Bools, Drawn, Floats, ScoreGate
from rl_agg.payloads.base import VECTORS
from rl_agg.seeding import chances
from rl_agg.validation import check_count


class RandomGate(VectorGate, ScoreGate):
    """Each agent sends with probability m/A, whatever it has; over parameters this is FedAvg's sampling of clients.

    :param num_agents: A.
    :param expected_messages: m.
    :param seed: Of the draws over gradients and parameters; ``None``: the run's. Scores bring their agents' own.
    :raises ValueError: if m is not an integer in [1, A], or the seed is negative.

    Source: McMahan et al. (2017), algorithm 1, for the sampling of clients. Differs: the number of senders varies around m.
    """

    payloads = VECTORS | {"scores"}
    holds = False

    def __init__(self, num_agents: int, expected_messages: int, *, seed: int | None = None) -> None:
        if seed is not None:
            check_count("seed", seed, least=0)
        super().__init__(num_agents, expected_messages)
        self.seed = seed

    def decide(self, offer: Offer) -> Tensor:
        """Those whose draw is below m/A."""
        draws = chances(offer.run if self.seed is None else self.seed, offer.step, self.num_agents)
        return torch.as_tensor(draws < self.expected_messages / self.num_agents, device=offer.present.device)

    def decide_scores(self, drawn: Drawn, memory: Floats, broadcast: Floats) -> tuple[Bools, Floats]:
        """Those whose draw is below m/A."""
        return drawn.chances < self.expected_messages / self.num_agents, memory
