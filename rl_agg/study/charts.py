"""What the page and the figures draw, computed once. Axes: U updates, S seeds, G points of a drawn curve, T thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import Array, Estimate
from rl_agg.study.costs import BYTES
from rl_agg.study.results import Results, Runs
from rl_agg.study.rows import scaled

AXES = {
    "updates": ("update", "Updates"),
    "steps": ("env_steps", "Environment steps"),
    "seconds": ("wall_time", "Seconds"),
    "bytes": (BYTES, "Bytes sent by agents"),
}
"""By name, what curves can be drawn over: the records' column, and how it is told."""

MAX_POINTS = 250
"""Points of a drawn curve: more than a screen can show only make the page heavy."""
MIN_POINTS = 40
ALL_POINTS = 20_000
"""Points of all curves of a study on one axis; many curves get fewer each."""
RESAMPLES = 500
"""For drawn bands; a pixel shows no more."""


@dataclass(frozen=True)
class Curve:
    """A mean return and its interval ``[G]`` each, where on an axis; NaN where not known."""

    x: Array
    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Profile:
    """Share of runs above each threshold.

    :param thresholds: ``[T]``.
    :param by_system: Share, and the ends of its interval ``[T]``.
    """

    thresholds: Array
    by_system: dict[str, tuple[Array, Array, Array]]


@dataclass(frozen=True)
class Chart:
    """All that is drawn of one environment.

    :param curves: By axis, then system; systems that did not record an axis are left out there.
    :param frontier: By system: bytes sent in a run, on average, and R̄.
    :param cheapest: Systems on the frontier: none other sends no more and returns no less.
    :param profile: Over R̄.
    """

    environment: str
    threshold: float | None
    systems: list[str]
    curves: dict[str, dict[str, Curve]]
    frontier: dict[str, tuple[float, Estimate]]
    cheapest: list[str]
    profile: Profile


def charts_of(results: Results) -> list[Chart]:
    """One for each environment that has runs."""
    count = sum(map(len, results.runs.values()))
    points = int(np.clip(ALL_POINTS // max(count, 1), MIN_POINTS, MAX_POINTS))
    return [_chart(results, environment, points) for environment in results.rows_by_environment]


def overall_profile(results: Results) -> Profile | None:
    """Over R̄ scaled to [0, 1], all environments together; ``None`` with one environment."""
    if not results.overall:
        return None
    scales = [scaled(systems) for systems in results.runs.values()]
    thresholds = np.linspace(0, 1, 101)
    return Profile(
        thresholds,
        {
            each.system: statistics.performance_profile([scale[each.system] for scale in scales], thresholds)
            for each in results.overall
        },
    )


def _chart(results: Results, environment: str, points: int) -> Chart:
    systems = results.runs[environment]
    rows = [row for row in results.rows if row.environment == environment]
    bytes_sent = {cost.system: cost.bytes for cost in results.costs if cost.environment == environment}
    frontier = {
        row.system: (bytes_sent[row.system], row.mean_return)
        for row in rows
        if not np.isnan([bytes_sent[row.system], row.mean_return.value]).any()
    }
    curves = {
        axis: {name: _curve(runs, column, points) for name, runs in systems.items() if runs.has(column)}
        for axis, (column, _) in AXES.items()
    }
    return Chart(
        environment,
        results.study.environments[environment].threshold,
        [row.system for row in rows],
        curves,
        frontier,
        _cheapest(frontier),
        _profile(systems, min(points, 81)),
    )


def _curve(runs: Runs, column: str, points: int) -> Curve:
    """Mean over seeds at equal positions on an axis; where seeds differ in it, on straight lines between their updates."""
    positions, returns = _thinned(runs.curve(column), points), _thinned(runs.curve("return"), points)
    returns = np.where(np.isnan(positions), np.nan, returns)
    x = statistics.mean_curve(positions)
    if not np.array_equal(np.where(np.isnan(positions), x, positions), np.broadcast_to(x, positions.shape), equal_nan=True):
        known = [(at, run) for at, run in zip(positions, returns, strict=True) if not np.isnan(run).all()]
        x = np.linspace(*statistics.common_range([at for at, _ in known], [run for _, run in known]), points)
        returns = np.stack([statistics.interpolated(at, run, x) for at, run in zip(positions, returns, strict=True)])
    low, high = statistics.curve_interval(returns, resamples=RESAMPLES)
    return Curve(x, statistics.mean_curve(returns), low, high)


def _thinned(curves: Array, points: int) -> Array:
    """Average neighbouring updates until no more points are left: ``[S, U]`` to ``[S, G]``."""
    if curves.shape[1] <= points:
        return curves
    return np.stack([statistics.mean_curve(part.T) for part in np.array_split(curves, points, axis=1)], axis=1)


def _cheapest(frontier: dict[str, tuple[float, Estimate]]) -> list[str]:
    chosen: list[str] = []
    for name, (_, estimate) in sorted(frontier.items(), key=lambda item: (item[1][0], -item[1][1].value)):
        if not chosen or estimate.value > frontier[chosen[-1]][1].value:
            chosen.append(name)
    return chosen


def _profile(systems: dict[str, Runs], points: int) -> Profile:
    known = statistics.known(np.concatenate([runs.mean_returns for runs in systems.values()]))
    if not known.size:
        return Profile(np.empty(0), {})
    margin = 0.02 * float(np.ptp(known)) or 1.0
    thresholds = np.linspace(known.min() - margin, known.max() + margin, points)
    return Profile(
        thresholds,
        {
            name: statistics.performance_profile([runs.mean_returns], thresholds, resamples=RESAMPLES)
            for name, runs in systems.items()
        },
    )
