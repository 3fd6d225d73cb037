"""Input and output of the statistics."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the ends of its interval, NaN where they are unknown."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def known(values: ArrayLike) -> Array:
    """The values that are not NaN.

    :param values: Of any shape.
    :return: One-dimensional.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[~np.isnan(array)]
