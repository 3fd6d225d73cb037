"""The charts as JSON for the page's script: systems by number, curves as lists."""

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_agg.statistics import Array, Estimate
from rl_agg.study.analysis.results import Comparison
from rl_agg.study.analysis.wording import LONGEST_LABEL, cut, in_words
from rl_agg.study.report.charts import AXES, FRONTIER_LABELS, PROFILE_LABEL, Chart, Curve, Curves, Profile
from rl_agg.study.report.tables import outcome_of

DIGITS = 5
RUN_DIGITS = 4
RUN_POINTS = 1500
"""Of all single runs of a system on an environment."""
MOST_DIGITS = 300


def data_of(systems: Sequence[str], baseline: str, charts: Sequence[Chart], overall: Profile | None) -> str:
    """Everything that is drawn, safe inside a script element.

    :param systems: All, as :func:`~rl_agg.study.report.charts.in_order_of_colours` has them.
    :param baseline: One of them.
    :param charts: See :func:`~rl_agg.study.report.charts.charts_of`.
    :param overall: See :func:`~rl_agg.study.report.charts.overall_profile`.
    """
    number = {name: at for at, name in enumerate(systems)}
    difference = f"Difference in R̄ from {cut(baseline, LONGEST_LABEL)}"
    data = {
        "systems": list(systems),
        "baseline": number[baseline],
        "axes": {axis: label for axis, (_, label) in AXES.items()},
        "labels": {
            "frontier": FRONTIER_LABELS,
            "profile": PROFILE_LABEL,
            "difference": difference,
        },
        "overall": None if overall is None else _profile(overall, number),
        "charts": [_chart(chart, number) for chart in charts],
    }
    # Inside a script only "<" could end it
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _chart(chart: Chart, number: dict[str, int]) -> dict[str, Any]:
    return {
        "title": chart.environment,
        "order": [number[name] for name in chart.systems],
        "measures": [_curves(measure, number) for measure in chart.measures],
        "frontier": {number[name]: [_number(sent), *_ends(mean)] for name, (sent, mean) in chart.frontier.items()},
        "logarithmic": chart.is_frontier_logarithmic,
        "cheapest": [number[name] for name in chart.cheapest],
        "differences": [[number[name], *_difference(pair)] for name, pair in chart.differences.items()],
        "profile": _profile(chart.profile, number),
    }


def _difference(pair: Sequence[Comparison]) -> list[Any]:
    """What is established, in words, and the numbers on each basis; on one alone where they look the same."""
    drawn = [_ends(each.difference) for each in pair]
    return [outcome_of(pair), in_words(pair[0].difference), drawn[:1] if drawn[0] == drawn[-1] else drawn]


def _curves(given: Curves, number: dict[str, int]) -> dict[str, Any]:
    by_update = given.by_axis["updates"]
    by_axis = {
        axis: {number[name]: _curve(curve, by_update[name]) for name, curve in curves.items()}
        for axis, curves in given.by_axis.items()
    }
    return {"label": given.label, "threshold": given.threshold, "axes": by_axis}


def _curve(curve: Curve, by_update: Curve) -> list[Any]:
    """x, mean, low and high, the runs, and how many points of x lie between two of theirs; x alone if the rest is the same."""
    x = _numbers(curve.x)
    if curve is not by_update and curve.mean is by_update.mean:
        return [x]
    stride = -(-curve.runs.size // RUN_POINTS)
    runs = [_numbers(run[::stride], RUN_DIGITS) for run in curve.runs] if len(curve.runs) > 1 else []
    return [x, *map(_numbers, (curve.mean, curve.low, curve.high)), runs, stride]


def _profile(given: Profile, number: dict[str, int]) -> dict[str, Any]:
    systems = {number[name]: [_numbers(part) for part in parts] for name, parts in given.by_system.items()}
    return {"label": given.label, "x": _numbers(given.thresholds), "systems": systems}


def _numbers(values: Array, digits: int = DIGITS) -> list[float | None]:
    """Rounded to what a screen can show of a curve; empty where no value is finite."""
    finite = np.isfinite(values)
    if not finite.any():
        return []
    magnitude, span = float(np.abs(values[finite]).max()), float(values[finite].max() / 2 - values[finite].min() / 2) * 2
    unit = min(span or magnitude, sys.float_info.max)  # a curve far from zero is drawn over its span
    decimals = digits - math.ceil(math.log10(unit)) if unit > 0 else 0
    rounded = np.where(finite, values, 0.0)
    if abs(decimals) <= MOST_DIGITS:  # beyond, a power of ten is no float
        rounded = np.round(rounded, decimals)
    whole: list[float | None] = (
        rounded.astype(np.int64) if (rounded % 1 == 0).all() and magnitude < 2**53 else rounded
    ).tolist()
    return whole if finite.all() else [value if known else None for value, known in zip(whole, finite, strict=True)]


def _ends(estimate: Estimate) -> list[float | None]:
    return [_number(estimate.value), _number(estimate.low), _number(estimate.high)]


def _number(value: float) -> float | None:
    """Rounded to what a screen can show; infinity cannot be drawn either."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded
