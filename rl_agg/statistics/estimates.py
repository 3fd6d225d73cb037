"""What every statistic here is given and gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the ends of its interval, NaN where the interval cannot be told."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def known(values: ArrayLike) -> Array:
    """Leave out what is NaN.

    :param values: Of any shape.
    :return: The others, one after another.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[~np.isnan(array)]
