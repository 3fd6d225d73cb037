"""A gate, a codec, a rule and a combiner of a user's own, as a module outside the packages defines them."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_agg import (
    Codec,
    Combiner,
    Signals,
    register_codec,
    register_combiner,
    register_gate,
    register_rule,
)
from rl_agg.codecs import Encoded
from rl_agg.gates import Offer, VectorGate


class EveryOther(VectorGate):
    """Agents ``first``, ``first`` + 2, ... send, the others never do."""

    holds = False

    def __init__(self, num_agents: int, *, first: int = 0) -> None:
        super().__init__(num_agents)
        self.first = first

    def decide(self, offer: Offer) -> Tensor:
        return torch.arange(len(offer.vectors)) % 2 == self.first


class Bytes(Codec):
    """Whole steps of 1/1024, said to take a byte each."""

    def __call__(self, rows: Tensor) -> Encoded:
        return Encoded((rows * 1024).round() / 1024, torch.full((len(rows),), 8 * rows.shape[1]))


class Extreme(Combiner):
    """Of each parameter the number of largest magnitude."""

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        return gradients.gather(0, gradients.abs().argmax(0, keepdim=True))[0]


def rising(signals: Signals, *, slope: float = 1.0) -> Tensor:
    """Each agent counts by ``slope`` more than the one before."""
    return slope * torch.arange(1.0, signals.num_agents + 1)


def register_members() -> None:
    """Have them by name: ``every_other``, ``bytes``, ``extreme`` and ``rising``."""
    register_gate("every_other", EveryOther)
    register_codec("bytes", Bytes)
    register_combiner("extreme", Extreme)
    register_rule("rising", rising, needs=())
