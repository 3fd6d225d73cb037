"""Measures of runs in the papers' tables. Axes: U updates, S seeds (runs), A agents."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from rl_agg.statistics.estimates import known


def mean_return(returns: ArrayLike) -> float:
    r"""Average over training: :math:`\bar R = \frac{1}{U} \sum_u r_u`.

    :param returns: One run ``[U]``, in the environment's own units.
    :return: Mean over the updates with a known return; NaN if there is none.
    """
    present = known(returns)
    return float(present.mean()) if present.size else math.nan


def end_return(returns: ArrayLike, share: float = 0.1) -> float:
    r"""Average over the end of training: :math:`\bar R_{end}`.

    That is the mean over the last :math:`\lceil share \cdot U \rceil` updates, with ``share`` 0.1 the last tenth.

    :param returns: One run ``[U]``, in the environment's own units.
    :param share: Unitless, in (0, 1]: the last part of *all* updates, with known returns or not.
    :return: Mean over the known returns among them; NaN if there is none.
    :raises ValueError: if ``share`` is not in (0, 1].

    Source: Holen et al. (2023), tables 1 to 5, which do not define the end.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    run = np.asarray(returns, dtype=np.float64)
    # Rounded first, because 0.1 * 30 is slightly more than 3
    return mean_return(run[len(run) - math.ceil(round(share * len(run), 9)) :])


def percent_of_baseline(values: Mapping[str, float], baseline: str) -> dict[str, float]:
    r"""Compare with a baseline as the paper does: :math:`100 \, x / x_{baseline}`.

    If more than half of the values are negative, the most negative one is first subtracted from all. Remaining negative
    values count as 0 %.

    >>> percent_of_baseline({"sum": 200.0, "loss": 250.0, "mean": -10.0}, "sum")
    {'sum': 100.0, 'loss': 125.0, 'mean': 0.0}

    :param values: A number for each algorithm, in the environment's own units; NaN where it is not known.
    :param baseline: The algorithm whose number is 100 %.
    :return: Percentages; NaN for unknown numbers, and for all if the baseline is not positive after the shift.
    :raises KeyError: if the baseline is not among the values.

    Source: Holen et al. (2023), section 4.1.
    """
    present = [value for value in values.values() if not math.isnan(value)]
    negative = [value for value in present if value < 0]
    shift = min(negative) if 2 * len(negative) > len(present) else 0.0
    whole = values[baseline] - shift
    if not whole > 0:
        return dict.fromkeys(values, math.nan)
    return {name: value if math.isnan(value) else max(0.0, 100 * (value - shift) / whole) for name, value in values.items()}


def threshold_step(returns: ArrayLike, threshold: float, smoothing: float = 0.9) -> int | None:
    r"""First update at which the running score reaches a threshold: :math:`s_u = 0.9 \, s_{u-1} + 0.1 \, r_u`.

    The score starts at the first known return and changes only in updates with one.

    :param returns: One run, or the mean of several, ``[U]``.
    :param threshold: In the environment's own units.
    :param smoothing: Unitless, in [0, 1): the share of the score that is kept at each update.
    :return: Number of the update, counted from 1; ``None`` if the score never reaches it.
    :raises ValueError: if ``smoothing`` is not in [0, 1).

    Source: Holen et al. (2023), table 6, which does not define the start of the score.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    score = math.nan
    for update, value in enumerate(np.asarray(returns, dtype=np.float64), start=1):
        if not math.isnan(value):
            score = value if math.isnan(score) else score + (1 - smoothing) * (value - score)
            if score >= threshold:
                return update
    return None


def variance_between_runs(values: ArrayLike) -> float:
    r"""Spread of a number over runs: :math:`\frac{1}{S-1} \sum_s (x_s - \bar x)^2`.

    :param values: A number for each run ``[S]``, such as its mean return.
    :return: In squared units; NaN with fewer than two known values.

    Source: Holen et al. (2023), table 7. Differs: the magnitudes printed there (about 10 % of the returns) look like standard
    deviations, the root of this.
    """
    present = known(values)
    return float(present.var(ddof=1)) if present.size > 1 else math.nan


def per_agent_and_update(totals: ArrayLike, num_agents: int, num_updates: int | None = None) -> float:
    r"""Average of a cumulative count: :math:`\frac{1}{U A} \, n_U`.

    For messages this is :math:`\mu_{frequency}`, for canonical bytes :math:`\mu_{size}`, averaged over the updates. With at
    most one message per agent and update the former is the share of agents that send; it exceeds 1 if an update has several
    gradient steps.

    :param totals: Count after each update ``[U]``, or after some of them, NaN where it was not reported.
    :param num_agents: A.
    :param num_updates: U; ``None``: as many as there are counts.
    :return: NaN if no count is known.

    Source: Gunn (2023), section 3.2, per update.
    """
    counted = known(totals)
    num_updates = len(np.asarray(totals)) if num_updates is None else num_updates
    return float(counted[-1]) / (num_updates * num_agents) if counted.size else math.nan
