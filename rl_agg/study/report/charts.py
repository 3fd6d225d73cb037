"""What the page and the figures draw, computed once. Axes: U updates, S seeds, G points of a drawn curve, T thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import Array, Estimate
from rl_agg.study.analysis.costs import BYTES, WIN_RATE
from rl_agg.study.analysis.results import Results, Runs
from rl_agg.study.analysis.rows import scaled

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
DRAWN_FIRST = 12
"""Systems that one picture can show."""
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
    :param win_rates: The same of the share of episodes that were won, of systems that recorded it.
    :param frontier: By system: bytes sent in a run, on average, and R̄.
    :param cheapest: Systems on the frontier: none other sends no more and returns no less.
    :param profile: Over R̄.
    """

    environment: str
    threshold: float | None
    systems: list[str]
    curves: dict[str, dict[str, Curve]]
    win_rates: dict[str, dict[str, Curve]]
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


def drawn_first(results: Results) -> list[str]:
    """Systems that figures draw, and the page until others are asked for: all, or the baseline and the best by mean rank."""
    names = list(results.study.systems)
    if len(names) <= DRAWN_FIRST:
        return names
    ranks: dict[str, list[int]] = {name: [] for name in names}
    for rows in results.rows_by_environment.values():
        for rank, row in enumerate(rows):
            ranks[row.system].append(rank)
    others = [name for name in names if ranks[name] and name != results.study.baseline]
    best = sorted(others, key=lambda name: sum(ranks[name]) / len(ranks[name]))
    return [results.study.baseline, *best[: DRAWN_FIRST - 1]]


def in_order_of_colours(results: Results) -> list[str]:
    """All systems, those that are drawn first in front: there are fewer colours and dashes than there may be systems."""
    first = drawn_first(results)
    return [*first, *(name for name in results.study.systems if name not in first)]


def _chart(results: Results, environment: str, points: int) -> Chart:
    systems = results.runs[environment]
    rows = [row for row in results.rows if row.environment == environment]
    bytes_sent = {cost.system: cost.bytes for cost in results.costs if cost.environment == environment}
    frontier = {
        row.system: (bytes_sent[row.system], row.mean_return)
        for row in rows
        if not np.isnan([bytes_sent[row.system], row.mean_return.value]).any()
    }
    return Chart(
        environment,
        results.study.environments[environment].threshold,
        [row.system for row in rows],
        _by_axis(systems, "return", points),
        _by_axis({name: runs for name, runs in systems.items() if runs.has(WIN_RATE)}, WIN_RATE, points),
        frontier,
        _cheapest(frontier),
        _profile(systems, min(points, 81)),
    )


def _by_axis(systems: dict[str, Runs], value: str, points: int) -> dict[str, dict[str, Curve]]:
    drawn = {name: _curves(runs, value, points) for name, runs in systems.items()}
    return {axis: {name: told[axis] for name, told in drawn.items() if axis in told} for axis in AXES}


def _curves(runs: Runs, value: str, points: int) -> dict[str, Curve]:
    """By axis, a column's mean over seeds at equal positions; where seeds differ in these, on lines between updates."""
    values = _thinned(runs.curve(value), points)
    by_update = (statistics.mean_curve(values), *statistics.curve_interval(values, resamples=RESAMPLES))
    curves = {}
    for axis, (column, _) in AXES.items():
        if not runs.has(column):
            continue
        positions = _thinned(runs.curve(column), points)
        x = statistics.mean_curve(positions)
        if (np.isnan(positions) | (positions == x)).all():  # all seeds alike, as env steps often are
            curves[axis] = Curve(x, *by_update)
            continue
        pairs = [(at, np.where(np.isnan(at), np.nan, run)) for at, run in zip(positions, values, strict=True)]
        known = [(at, run) for at, run in pairs if not np.isnan(run).all()]
        x = np.linspace(*statistics.common_range([at for at, _ in known], [run for _, run in known]), len(x))
        lines = np.stack([statistics.interpolated(at, run, x) for at, run in pairs])
        curves[axis] = Curve(x, statistics.mean_curve(lines), *statistics.curve_interval(lines, resamples=RESAMPLES))
    return curves


def _thinned(curves: Array, points: int) -> Array:
    """Average neighbouring updates until no more points are left: ``[S, U]`` to ``[S, G]``."""
    length = curves.shape[1]
    if length <= points:
        return curves
    starts = np.arange(points) * length // points
    known = ~np.isnan(curves)
    total = np.add.reduceat(np.where(known, curves, 0.0), starts, axis=1)
    count = np.add.reduceat(known.astype(np.float64), starts, axis=1)
    thinned: Array = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return thinned


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
