"""Rules that read no signal. Axis A: agents."""

import torch
from torch import Tensor

from rl_agg.signals import Signals, any_signal


def sum_weights(signals: Signals) -> Tensor:
    """Add the agents' contributions: :math:`w_a = 1`.

    Source: Holen et al. (2023), Baseline-Sum.
    """
    return torch.ones_like(any_signal(signals))


def mean_weights(signals: Signals) -> Tensor:
    """Average the agents' contributions: :math:`w_a = 1/A`.

    Source: Holen et al. (2023), Baseline-Avg.
    """
    return torch.full_like(any_signal(signals), 1.0 / signals.num_agents)
