r"""Statistics that compare runs. Axes: U updates, S seeds (runs).

A run is its returns over updates ``[U]``: NaN where no episode had finished yet. Unless stated otherwise, functions ignore
NaN and return NaN where nothing else is left. An interval needs at least two runs; with one its ends are NaN.

Sources: Holen et al. (2023), sections 4.1 and 4.2, for the measures in their tables; Agarwal et al. (2021), "Deep
reinforcement learning at the edge of the statistical precipice", for the interquartile mean, the optimality gap, performance
profiles, stratified bootstrap intervals and the probability of improvement; Hesterberg (2015) for intervals from few runs.
"""

from rl_agg.statistics.aggregates import exceedances, interquartile_mean, mean, optimality_gap, share_of_wins
from rl_agg.statistics.bootstrap import (
    bootstrap_interval,
    enough_pairs,
    mean_intervals,
    paired_difference,
    probability_of_improvement,
    tail_share,
)
from rl_agg.statistics.corrections import holm
from rl_agg.statistics.curves import (
    common_range,
    curve_interval,
    interpolated,
    mean_curve,
    mean_over_range,
    performance_profile,
)
from rl_agg.statistics.estimates import UNKNOWN, Array, Estimate, known
from rl_agg.statistics.paper_measures import (
    end_return,
    mean_return,
    per_agent_and_update,
    percent_of_baseline,
    threshold_step,
    variance_between_runs,
)

__all__ = [
    "UNKNOWN",
    "Array",
    "Estimate",
    "bootstrap_interval",
    "common_range",
    "curve_interval",
    "end_return",
    "enough_pairs",
    "exceedances",
    "holm",
    "interpolated",
    "interquartile_mean",
    "known",
    "mean",
    "mean_curve",
    "mean_intervals",
    "mean_over_range",
    "mean_return",
    "optimality_gap",
    "paired_difference",
    "per_agent_and_update",
    "percent_of_baseline",
    "performance_profile",
    "probability_of_improvement",
    "share_of_wins",
    "tail_share",
    "threshold_step",
    "variance_between_runs",
]
