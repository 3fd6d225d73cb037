"""Corrections for comparing many things at once. Axis K: hypotheses."""

import numpy as np
from numpy.typing import ArrayLike

from rl_agg.statistics.estimates import Array


def holm(p_values: ArrayLike, level: float = 0.05) -> tuple[Array, Array]:
    r"""Holm's step-down correction, which bounds the probability of any false rejection, whatever the dependence.

    In ascending order, :math:`\tilde p_{(k)} = \max_{j \le k} \min(1, (K - j + 1)\, p_{(j)})`.

    :param p_values: Of each hypothesis ``[K]``; NaN is no hypothesis.
    :param level: Of the family.
    :return: Corrected p-values ``[K]``, and the level at which each is tested ``[K]``, ``level / (K - k + 1)``, which goes on
        falling no further after the first that is not rejected.

    Source: Holm (1979).
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    left = np.arange(len(order), 0, -1)
    corrected, levels = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(left * values[order]))
    rejected = corrected[order] <= level
    stop = len(order) if rejected.all() else int(np.argmin(rejected))
    levels[order] = level / np.where(np.arange(len(order)) < stop, left, left[min(stop, len(left) - 1)] if len(left) else 1)
    return corrected, levels
