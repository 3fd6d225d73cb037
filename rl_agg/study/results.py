"""What a study's records say: one row of numbers for each system on each environment. Axes: U updates, S seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import Array, Estimate
from rl_agg.study.spec import Environment, Study
from rl_agg.study.store import Record, Store


@dataclass(frozen=True)
class Runs:
    """The finished runs of one system on one environment.

    :param seeds: Which seeds ``[S]``, in order.
    :param records: Theirs ``[S]``.
    :param mean_returns: R̄ of each ``[S]``.
    :param end_returns: R̄_end of each ``[S]``.
    """

    system: str
    environment: str
    seeds: list[int]
    records: list[Record]
    mean_returns: Array
    end_returns: Array

    def curve(self, column: str) -> Array:
        """A column of all runs ``[S, U]``; U is the longest run's, shorter ones end in NaN."""
        series = [record.updates[column].to_numpy(dtype=np.float64) for record in self.records]
        curve = np.full((len(series), max(map(len, series), default=0)), np.nan)
        for row, values in zip(curve, series, strict=True):
            row[: len(values)] = values
        return curve

    def common_seeds(self, other: Runs) -> tuple[Array, Array]:
        """R̄ of the seeds that both have ``[S]``, this one's and the other's."""
        common = [seed for seed in self.seeds if seed in other.seeds]
        return (
            self.mean_returns[[self.seeds.index(seed) for seed in common]],
            other.mean_returns[[other.seeds.index(seed) for seed in common]],
        )


@dataclass(frozen=True)
class Row:
    """What the tables say about one system on one environment; see :mod:`rl_agg.statistics` for each number.

    :param threshold_step: Of the mean curve; ``None`` where it is not reached.
    :param seeds_at_threshold: How many runs reach it by themselves; ``None`` where the environment has no threshold.
    :param improvement: Probability that a run beats one of the baseline, by R̄; NaN for the baseline itself.
    """

    environment: str
    system: str
    num_seeds: int
    num_updates: int
    mean_return: Estimate
    mean_return_percent: float
    end_return: Estimate
    end_return_percent: float
    threshold_step: int | None
    seeds_at_threshold: int | None
    variance: float
    iqm: Estimate
    improvement: Estimate


@dataclass(frozen=True)
class Overall:
    """What a study of several environments says about one system; every environment counts alike.

    :param iqm: Interquartile mean over all runs of R̄ scaled to [0, 1], 0 being an environment's worst run and 1 its best.
    :param improvement: Probability of improvement over the baseline, averaged over environments.
    """

    system: str
    iqm: Estimate
    improvement: Estimate


@dataclass(frozen=True)
class Results:
    """A study and what its finished cells say.

    :param runs: By environment, then system; systems without a finished run there are left out.
    :param failures: Cell and traceback of each that failed.
    """

    study: Study
    runs: dict[str, dict[str, Runs]]
    rows: list[Row]
    overall: list[Overall]
    failures: list[tuple[str, str]]

    @property
    def rows_by_environment(self) -> dict[str, list[Row]]:
        """Rows of each environment that has any."""
        grouped = {name: [row for row in self.rows if row.environment == name] for name in self.runs}
        return {name: rows for name, rows in grouped.items() if rows}

    @property
    def records(self) -> list[Record]:
        """Of all finished cells."""
        return [record for systems in self.runs.values() for runs in systems.values() for record in runs.records]


def results_of(store: Store) -> Results:
    """Read a folder and compute its tables.

    :raises StudyError: if the folder holds no study.
    """
    study = store.study()
    cells = study.cells
    records = [record for cell in cells if (record := store.read(cell)) is not None]
    failures = [(str(cell), text) for cell in cells if (text := store.failure(cell)) is not None]
    runs: dict[str, dict[str, Runs]] = {}
    for environment in study.environments:
        found = (_runs(system, environment, records, study.end_share) for system in study.systems)
        runs[environment] = {each.system: each for each in found if each.records}
    rows = [row for name, systems in runs.items() for row in _rows(systems, study.environments[name], study.baseline)]
    return Results(study, runs, rows, _overall(runs, study), failures)


def _runs(system: str, environment: str, records: Sequence[Record], end_share: float) -> Runs:
    own = [r for r in records if (r.cell.system_name, r.cell.environment_name) == (system, environment)]
    own.sort(key=lambda record: record.cell.seed)
    returns = [record.updates["return"].to_numpy() for record in own]
    return Runs(
        system,
        environment,
        [record.cell.seed for record in own],
        own,
        np.array([statistics.mean_return(run) for run in returns]),
        np.array([statistics.end_return(run, end_share) for run in returns]),
    )


def _rows(systems: dict[str, Runs], environment: Environment, baseline: str) -> list[Row]:
    means = {name: statistics.mean_return(runs.mean_returns) for name, runs in systems.items()}
    ends = {name: statistics.mean_return(runs.end_returns) for name, runs in systems.items()}
    unknown = dict.fromkeys(systems, math.nan)
    mean_percent = statistics.percent_of_baseline(means, baseline) if baseline in systems else unknown
    end_percent = statistics.percent_of_baseline(ends, baseline) if baseline in systems else unknown
    rows = []
    for name, runs in systems.items():
        curve = runs.curve("return")
        reached = _thresholds(curve, environment.threshold)
        rows.append(
            Row(
                runs.environment,
                name,
                len(runs.seeds),
                curve.shape[1],
                statistics.bootstrap_interval([runs.mean_returns], statistics.mean),
                mean_percent[name],
                statistics.bootstrap_interval([runs.end_returns], statistics.mean),
                end_percent[name],
                *reached,
                statistics.variance_between_runs(runs.mean_returns),
                statistics.bootstrap_interval([runs.mean_returns]),
                _improvement([systems], name, baseline),
            )
        )
    return rows


def _thresholds(curve: Array, threshold: float | None) -> tuple[int | None, int | None]:
    if threshold is None:
        return None, None
    alone = [statistics.threshold_step(run, threshold) for run in curve]
    return statistics.threshold_step(statistics.mean_curve(curve), threshold), sum(step is not None for step in alone)


def _improvement(environments: Sequence[dict[str, Runs]], name: str, baseline: str) -> Estimate:
    both = [systems for systems in environments if name in systems and baseline in systems]
    if name == baseline:
        return Estimate(math.nan, math.nan, math.nan)
    return statistics.probability_of_improvement(
        [(systems[name].mean_returns, systems[baseline].mean_returns) for systems in both]
    )


def _overall(runs: dict[str, dict[str, Runs]], study: Study) -> list[Overall]:
    """Only of systems that have runs on every environment: the others' numbers would be about other tasks."""
    if len(runs) < 2:
        return []
    scaled = {name: _scale({s: r.mean_returns for s, r in systems.items()}) for name, systems in runs.items()}
    complete = [name for name in study.systems if all(name in systems for systems in runs.values())]
    return [
        Overall(
            name,
            statistics.bootstrap_interval([values[name] for values in scaled.values()]),
            _improvement(list(runs.values()), name, study.baseline),
        )
        for name in complete
    ]


def _scale(values: dict[str, Array]) -> dict[str, Array]:
    pooled = np.concatenate([*values.values(), np.empty(0)])
    known = pooled[~np.isnan(pooled)]
    if known.size == 0:
        return values
    low, width = known.min(), np.ptp(known)
    # All runs alike: in the middle
    return {
        name: (value - low) / width if width > 0 else np.where(np.isnan(value), value, 0.5) for name, value in values.items()
    }
