"""Weights by agreement with the others. Axis A: agents."""

from torch import Tensor

from rl_agg.rules.base import required, shares
from rl_agg.signals import Signals


def agreement_weights(signals: Signals) -> Tensor:
    r"""Weights proportional to how far an agent's gradient points where the others' do.

    :math:`w_a = \max(c_a, 0) / \sum_b \max(c_b, 0)`

    :param signals: ``agreement`` ``[A]``, cosines.
    :return: Weights ``[A]``, summing to 1. Nobody agrees with the others: ``1/A``.
    :raises ValueError: if ``agreement`` is missing.
    """
    return shares(required(signals, "agreement").clamp(min=0))
