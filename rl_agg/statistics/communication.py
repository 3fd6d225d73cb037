"""What agents say, per agent and update. Axes: U updates, A agents."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rl_agg.statistics.estimates import known


def per_agent_and_update(totals: ArrayLike, num_agents: int) -> float:
    r"""Average what was counted since the beginning: :math:`\frac{1}{U A} \, n_U`.

    Of messages this is :math:`\mu_{frequency}`, of canonical bytes :math:`\mu_{size}`, both averaged over the updates. Where
    an agent can speak once in an update the former is the share of the agents that spoke; it is above 1 where an update is
    several gradient steps.

    :param totals: Count after each update ``[U]``, NaN where it was not told.
    :param num_agents: A.
    :return: NaN if nothing was counted.

    Source: Gunn (2023), section 3.2, who gives each update its own.
    """
    counted = known(totals)
    return float(counted[-1]) / (len(np.asarray(totals)) * num_agents) if counted.size else math.nan
