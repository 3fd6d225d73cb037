"""No gate. Axis A: agents."""

import numpy as np
import torch
from torch import Tensor

from rl_agg.gates.base import Offer, VectorGate
from rl_agg.gates.scores import Bools, Drawn, Floats, ScoreGate
from rl_agg.payloads.base import CONTENTS


class EveryGate(VectorGate, ScoreGate):
    """Every agent sends, whatever it has.

    :param num_agents: A.
    :param expected_messages: A, or ``None``.
    :raises ValueError: if another number of messages is expected.
    """

    payloads = frozenset(CONTENTS)
    holds = False

    def __init__(self, num_agents: int, expected_messages: int | None = None) -> None:
        if expected_messages not in (None, num_agents):
            raise ValueError(f"with communication 'every' all {num_agents} agents send; leave out expected_messages")
        super().__init__(num_agents, num_agents)

    @property
    def knob(self) -> None:
        """None: m is A."""

    def decide(self, offer: Offer) -> Tensor:
        """All agents."""
        return torch.ones_like(offer.present)

    def decide_scores(self, drawn: Drawn, memory: Floats, broadcast: Floats) -> tuple[Bools, Floats]:
        """All agents."""
        return np.ones(len(drawn.fitness), dtype=np.bool_), memory
