"""Weights that make gradients equally long. Axis A: agents."""

import torch
from torch import Tensor

from rl_agg.rules.base import required
from rl_agg.signals import Signals
from rl_agg.validation import check_number


def equal_norm_weights(signals: Signals, *, most: float = 1000.0) -> Tensor:
    r"""Average directions, so that an agent does not count for the length of its gradient.

    :math:`w_a = \frac{1}{A} \min(m / \lVert g_a \rVert, \rho)`, with m the median of the norms that are not 0.

    :param signals: ``norms`` ``[A]``, >= 0.
    :param most: :math:`\rho` > 0, unitless: how many times an agent may count whose gradient is nearly 0.
    :return: Weights ``[A]``; all norms equal, or all 0: ``1/A``.
    :raises ValueError: if ``most`` is not positive or ``norms`` is missing.
    """
    check_number("most", most, above=0)
    norms = required(signals, "norms")
    positive = norms[norms > 0].double()
    if not len(positive):
        return torch.full_like(norms, 1.0 / len(norms))
    ratios = (positive.quantile(0.5) / norms.double()).clamp(max=most)
    return (ratios / len(norms)).to(norms)
