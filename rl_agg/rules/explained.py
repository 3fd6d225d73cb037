"""Weights by explained variance. Axis A: agents."""

from torch import Tensor

from rl_agg.rules.base import required, shares
from rl_agg.signals import Signals
from rl_agg.validation import check_number


def explained_weights(signals: Signals, *, prior: float = 0.1) -> Tensor:
    r"""Weights proportional to the share of its returns' variance that the critic explains, plus a constant.

    :math:`w_a = (e_a + \kappa) / \sum_b (e_b + \kappa)`

    An agent whose observations say nothing about its returns teaches nothing, and has :math:`e_a = 0`. Before the critic has
    learned anything that holds for all, and they count alike. :math:`\kappa` bounds the largest weight at
    :math:`1 + 1/\kappa` times the least.

    :param signals: ``explained_variance`` ``[A]``, in [0, 1]; what is beyond counts as the nearest of both.
    :param prior: :math:`\kappa` >= 0, unitless. 0: :math:`w_a = e_a / \sum_b e_b`.
    :return: Weights ``[A]``, summing to 1. Nothing explained of anybody: ``1/A``.
    :raises ValueError: if ``prior`` is negative or ``explained_variance`` is missing.
    """
    check_number("prior", prior, least=0)
    return shares(required(signals, "explained_variance").clamp(0, 1) + prior)
