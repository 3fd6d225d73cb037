"""Advantages of each agent, standardised over its own rollout. One definition for every host."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

EPSILON = 1e-8
"""Added to the standard deviation."""

Numbers = TypeVar("Numbers", Tensor, NDArray[np.floating])


def standardized(values: Numbers, mean: Numbers, squares: Numbers, count: Numbers | int) -> Numbers:
    r"""Mean 0 and standard deviation 1: :math:`(A - \bar A) / (s + 10^{-8})`.

    :math:`s^2 = \sum (A - \bar A)^2 / (n - 1)`

    :param values: A, any shape.
    :param mean: Of the agent's rollout, as broadcast against ``values``.
    :param squares: Sum of squared differences from the mean, likewise.
    :param count: n, likewise, or one number for all; where it is 1, :math:`s = 0`.
    :return: As ``values``.
    """
    free = count - 1
    spread = (squares / (free + (free == 0))) ** 0.5
    return (values - mean) / (spread + EPSILON)
