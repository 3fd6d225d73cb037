"""The charts of a report, for the page and the figures. Axes: U updates, S seeds, G drawn points, T thresholds."""

from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import Array, Estimate
from rl_agg.study.analysis.comparisons import Comparison
from rl_agg.study.analysis.costs import BYTES, WIN_RATE
from rl_agg.study.analysis.results import Results, Runs
from rl_agg.study.analysis.rows import scaled

AXES = {
    "updates": ("update", "Updates"),
    "steps": ("env_steps", "Environment steps"),
    "seconds": ("wall_time", "Seconds"),
    "bytes": (BYTES, "Bytes sent by agents"),
}
"""By name, the horizontal axes of curves: the records' column, and its label."""
MEASURES = {"return": ("Mean episodic return", ""), WIN_RATE: ("Share of episodes won", "_wins")}
"""The records' columns that are drawn as curves: the label, and the ending of the figure's name."""
FRONTIER_LABELS = ("Bytes sent by agents in a run", "Mean return over training")
PROFILE_LABEL = "Share of runs above"

MAX_POINTS = 250
"""Of a drawn curve; a screen shows no more."""
MIN_POINTS = 40
ALL_POINTS = 20_000
"""Of all curves of a study on one axis; many curves get fewer each."""
DRAWN_FIRST = 12
"""Systems that one picture can show."""
RESAMPLES = 500
"""For drawn bands; a pixel shows no more."""
MANY_TIMES = 8
"""Ratio of bytes above which only a logarithmic axis shows all systems."""
ALIKE = 1.01
"""Ratio of bytes up to which systems are one vertical line in a chart."""


@dataclass(frozen=True)
class Curve:
    """A mean return and its interval ``[G]`` each, where on an axis, and each run's ``[S, G]``; NaN where not known."""

    x: Array
    mean: Array
    low: Array
    high: Array
    runs: Array


@dataclass(frozen=True)
class Profile:
    """Share of runs above each threshold.

    :param label: Of the thresholds.
    :param thresholds: ``[T]``.
    :param by_system: Share, and the ends of its interval ``[T]``.
    """

    label: str
    thresholds: Array
    by_system: dict[str, tuple[Array, Array, Array]]


@dataclass(frozen=True)
class Curves:
    """A measure of one environment over training.

    :param label: Of the measure.
    :param ending: Of the figure's name.
    :param threshold: A value to mark.
    :param by_axis: By axis, then system; systems that did not record an axis are left out there.
    """

    label: str
    ending: str
    threshold: float | None
    by_axis: dict[str, dict[str, Curve]]


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn of one environment.

    :param systems: The best first.
    :param measures: The return, and what else of :data:`MEASURES` was recorded.
    :param frontier: By system: bytes sent in a run, on average, and R̄.
    :param cheapest: Systems on the frontier: no other one sends at most as much and returns at least as much.
    :param differences: In R̄ from the baseline, on each basis, by system, the best first.
    :param profile: Over R̄.
    """

    environment: str
    systems: list[str]
    measures: list[Curves]
    frontier: dict[str, tuple[float, Estimate]]
    cheapest: list[str]
    differences: dict[str, list[Comparison]]
    profile: Profile

    @property
    def differ_in_bytes(self) -> bool:
        """Whether return against bytes shows anything; signals alone, a few numbers for each gradient, do not."""
        sent = [bytes_sent for bytes_sent, _ in self.frontier.values()]
        return bool(sent) and max(sent) > ALIKE * min(sent)

    @property
    def is_frontier_logarithmic(self) -> bool:
        """Whether bytes are so far apart that only a logarithm shows them all; zero has none."""
        sent = [bytes_sent for bytes_sent, _ in self.frontier.values()]
        return bool(sent) and 0 < MANY_TIMES * min(sent) < max(sent)


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
        "Scaled return",
        thresholds,
        {
            each.system: statistics.performance_profile([scale[each.system] for scale in scales], thresholds)
            for each in results.overall
        },
    )


def drawn_first(results: Results) -> list[str]:
    """The systems of figures, and of the page at first: the baseline and all others, of many the best by mean rank."""
    baseline = results.study.baseline
    others = [name for name in results.study.systems if name != baseline]
    if len(others) < DRAWN_FIRST:
        return [baseline, *others]
    ranks: dict[str, list[int]] = {name: [] for name in results.study.systems}
    for rows in results.rows_by_environment.values():
        for rank, row in enumerate(rows):
            ranks[row.system].append(rank)
    ranked = [name for name in others if ranks[name]]
    best = sorted(ranked, key=lambda name: sum(ranks[name]) / len(ranks[name]))
    return [baseline, *best[: DRAWN_FIRST - 1]]


def in_order_of_colours(results: Results) -> list[str]:
    """All systems, those that are drawn first in front: there may be more systems than colours and dashes."""
    first = drawn_first(results)
    return [*first, *(name for name in results.study.systems if name not in first)]


def _chart(results: Results, environment: str, points: int) -> Chart:
    systems, threshold = results.runs[environment], results.study.environments[environment].threshold
    rows = [row for row in results.rows if row.environment == environment]
    bytes_sent = {cost.system: cost.bytes for cost in results.costs if cost.environment == environment}
    frontier = {
        row.system: (bytes_sent[row.system], row.mean_return)
        for row in rows
        if not np.isnan([bytes_sent[row.system], row.mean_return.value]).any()
    }
    return Chart(
        environment,
        [row.system for row in rows],
        [
            Curves(label, ending, threshold if column == "return" else None, _by_axis(recorded, column, points))
            for column, (label, ending) in MEASURES.items()
            if (recorded := {name: runs for name, runs in systems.items() if column == "return" or runs.has(column)})
        ],
        frontier,
        _cheapest(frontier),
        {name: pair for name, pair in results.differences(environment).items() if not np.isnan(pair[0].difference.value)},
        _profile(systems, min(points, 81)),
    )


def _by_axis(systems: dict[str, Runs], value: str, points: int) -> dict[str, dict[str, Curve]]:
    drawn = {name: _curves(runs, value, points) for name, runs in systems.items()}
    return {axis: {name: curves[axis] for name, curves in drawn.items() if axis in curves} for axis in AXES}


def _curves(runs: Runs, value: str, points: int) -> dict[str, Curve]:
    """By axis, a column's mean over seeds at equal positions; where seeds differ in these, on lines between updates."""
    values = _thinned(runs.curve(value), points)
    by_update = (statistics.mean_curve(values), *statistics.curve_interval(values, resamples=RESAMPLES), values)
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
        curves[axis] = Curve(x, statistics.mean_curve(lines), *statistics.curve_interval(lines, resamples=RESAMPLES), lines)
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
        return Profile(FRONTIER_LABELS[1], np.empty(0), {})
    margin = 0.02 * float(np.ptp(known)) or 1.0
    thresholds = np.linspace(known.min() - margin, known.max() + margin, points)
    return Profile(
        FRONTIER_LABELS[1],
        thresholds,
        {
            name: statistics.performance_profile([runs.mean_returns], thresholds, resamples=RESAMPLES)
            for name, runs in systems.items()
        },
    )
