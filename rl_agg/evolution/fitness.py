"""What a return counts in the gradient. Axis A: agents whose return is known or imputed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def raw(returns: Floats) -> Floats:
    """The returns as they are, as in the report."""
    return returns


def centered(returns: Floats) -> Floats:
    """Less their mean ``[A]``: adding a constant to all of them changes nothing."""
    differences: Floats = returns - returns.mean()
    return differences


def ranks(returns: Floats) -> Floats:
    """Ranks spread evenly over [-0.5, 0.5] ``[A]``; equal returns share the mean of their ranks.

    Source: Salimans et al. (2017), section 2.1.
    """
    if len(returns) < 2:
        return np.zeros_like(returns)
    _, kind, counts = np.unique(returns, return_inverse=True, return_counts=True)
    middle = counts.cumsum() - (counts + 1) / 2  # mean rank of each distinct return, from 0
    shares: Floats = middle[kind] / (len(returns) - 1) - 0.5
    return shares


FITNESS: dict[str, Callable[[Floats], Floats]] = {"raw": raw, "centered": centered, "ranks": ranks}
"""Ways by name."""
