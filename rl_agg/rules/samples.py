"""Weights by the number of samples. Axis A: agents."""

from torch import Tensor

from rl_agg.rules.base import required, shares
from rl_agg.signals import Signals


def sample_weights(signals: Signals) -> Tensor:
    r"""Count every sample alike: :math:`w_a = n_a / \sum_b n_b`; no samples at all: :math:`1/A`.

    :param signals: ``num_samples`` ``[A]``, >= 0.
    :return: Weights ``[A]``, summing to 1.
    :raises ValueError: if ``num_samples`` is missing.

    Source: McMahan et al. (2017), equation 7 in Holen et al. (2023).
    """
    return shares(required(signals, "num_samples"))
