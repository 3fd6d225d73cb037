"""Random numbers of messages. Axes: S agents that send, N numbers of each."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_agg.seeding import uniforms


@dataclass(frozen=True)
class Draws:
    """What a codec draws in one exchange, the same at the agent and at the server: nothing of it has to be sent.

    :param run: The run's seed, >= 0.
    :param step: How many exchanges came before.
    :param agents: Numbers of the agents that send ``[S]``; ``None``: 0 to S - 1.
    :param stage: Place of the codec in a chain.
    :param unbiased: Whether the mean of what is decoded is to be the input; otherwise it is to be as near to the input as its
        message allows, which error feedback needs in order not to diverge.
    :param purpose: ``"codec"`` of what agents send, ``"broadcast"`` of what they are sent; see :mod:`rl_agg.seeding`.
    """

    run: int = 0
    step: int = 0
    agents: NDArray[np.integer] | None = None
    stage: int = 0
    unbiased: bool = True
    purpose: str = "codec"

    def __call__(self, rows: Tensor) -> Tensor:
        """Uniform numbers on [0, 1) of the shape, dtype and device of ``rows`` ``[S, N]``."""
        agents = np.arange(len(rows)) if self.agents is None else self.agents
        return torch.from_numpy(uniforms(self.purpose, self.run, self.step, agents, rows.shape[1], part=self.stage)).to(rows)
