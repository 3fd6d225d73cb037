"""How much of the variance of an agent's returns the critic explains. One definition for every host. Axis A: agents."""

import torch
from torch import Tensor

ROUNDING = 1e-12
"""A variance that is smaller, compared with the mean square, is what float32 numbers are rounded by."""


def explained_share(error_squares: Tensor, return_squares: Tensor, raw_squares: Tensor) -> Tensor:
    r"""Share of the variance that the critic explains.

    :math:`e_a = \mathrm{clip}(1 - \mathrm{Var}(R - V) / \mathrm{Var}(R), 0, 1)`

    R are the returns that the critic learns to predict, and V its predictions when they were collected.

    :param error_squares: :math:`\sum (x - \bar x)^2` of the agent's :math:`x = R - V` ``[A]``, float64.
    :param return_squares: The same of its :math:`x = R`.
    :param raw_squares: :math:`\sum R^2`.
    :return: ``[A]``; NaN for an agent whose returns do not vary, or are not known.
    """
    share = (1 - error_squares / return_squares).clamp(0, 1)
    return share.where(return_squares > ROUNDING * raw_squares, torch.nan)
