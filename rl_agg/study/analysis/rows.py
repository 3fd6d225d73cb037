"""The numbers of one system on one environment, and over all of them. Axes: U updates, S seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import UNKNOWN, Array, Estimate
from rl_agg.study.analysis.runs import Runs
from rl_agg.study.spec.study import Environment, Study


@dataclass(frozen=True)
class Row:
    """One system on one environment; see :mod:`rl_agg.statistics` for each number.

    :param threshold_step: Of the mean curve; ``None`` where it is not reached.
    :param seeds_at_threshold: How many runs reach it by themselves; ``None`` where the environment has no threshold.
    :param improvement: Probability that a run beats one of the baseline, by R̄; NaN for the baseline itself.
    :param optimality_gap: Of R̄ scaled so that 0 is the environment's worst run and 1 its threshold, or its best run where it
        has none; no gap where all runs are as far.
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
    optimality_gap: Estimate


@dataclass(frozen=True)
class Overall:
    """One system over several environments.

    :param iqm: Interquartile mean over all runs of R̄ scaled to [0, 1], 0 being an environment's worst run and 1 its best.
    :param optimality_gap: As in :class:`Row`, over all runs.
    :param improvement: Probability of improvement over the baseline, averaged over environments, which count alike here;
        NaN where the baseline lacks one.
    """

    system: str
    iqm: Estimate
    optimality_gap: Estimate
    improvement: Estimate


def rows_of(systems: dict[str, Runs], environment: Environment, baseline: str) -> list[Row]:
    """One for each system of an environment, the highest R̄ first and unknown ones last."""
    means = {name: statistics.mean_return(runs.mean_returns) for name, runs in systems.items()}
    ends = {name: statistics.mean_return(runs.end_returns) for name, runs in systems.items()}
    unknown = dict.fromkeys(systems, math.nan)
    mean_percent = statistics.percent_of_baseline(means, baseline) if baseline in systems else unknown
    end_percent = statistics.percent_of_baseline(ends, baseline) if baseline in systems else unknown
    to_target = scaled(systems, environment.threshold, alike=1.0)
    rows = []
    for name in sorted(systems, key=lambda name: (math.isnan(means[name]), -means[name])):
        runs = systems[name]
        curve, numbers = runs.curve("return"), max(runs.series("update"), key=len, default=np.zeros(1))
        rows.append(
            Row(
                runs.environment,
                name,
                len(runs.seeds),
                int(numbers[-1]),
                statistics.bootstrap_interval([runs.mean_returns], statistics.mean),
                mean_percent[name],
                statistics.bootstrap_interval([runs.end_returns], statistics.mean),
                end_percent[name],
                *_thresholds(curve, environment.threshold, numbers),
                statistics.variance_between_runs(runs.mean_returns),
                statistics.bootstrap_interval([runs.mean_returns]),
                _improvement([systems], name, baseline),
                statistics.bootstrap_interval([to_target[name]], statistics.optimality_gap),
            )
        )
    return rows


def overall_of(runs: dict[str, dict[str, Runs]], study: Study) -> list[Overall]:
    """Only of systems that have runs on every environment: the others' numbers would be about other tasks."""
    if len(runs) < 2:
        return []
    to_best = [scaled(systems) for systems in runs.values()]
    to_target = [scaled(systems, study.environments[name].threshold, alike=1.0) for name, systems in runs.items()]
    complete = [name for name in study.systems if all(name in systems for systems in runs.values())]
    rows = [
        Overall(
            name,
            statistics.bootstrap_interval([values[name] for values in to_best]),
            statistics.bootstrap_interval([values[name] for values in to_target], statistics.optimality_gap),
            _improvement(list(runs.values()), name, study.baseline),
        )
        for name in complete
    ]

    def rank(each: Overall) -> tuple[bool, float, float]:
        """By what verdicts go by; the baseline is better than itself half of the time."""
        chance = 0.5 if each.system == study.baseline else each.improvement.value
        return math.isnan(each.iqm.value), -(0.0 if math.isnan(chance) else chance), -each.iqm.value

    return sorted(rows, key=rank)


def scaled(systems: dict[str, Runs], target: float | None = None, *, alike: float = 0.5) -> dict[str, Array]:
    """R̄ of all runs of an environment so that its worst run is 0.

    :param target: What is 1; ``None``: its best run.
    :param alike: What all runs are that are as far.
    :return: By system ``[S]``.
    """
    values = {name: runs.mean_returns for name, runs in systems.items()}
    known = statistics.known(np.concatenate([*values.values(), np.empty(0)]))
    if not known.size:
        return values
    low = known.min()
    width = (known.max() if target is None else target) - low
    return {
        name: (value - low) / width if width > 0 else np.where(np.isnan(value), value, alike) for name, value in values.items()
    }


def _thresholds(curve: Array, threshold: float | None, numbers: Array) -> tuple[int | None, int | None]:
    """The update in which the mean curve passes, and how many runs do; records ``[S, U]`` are of the updates ``[U]``."""
    if threshold is None:
        return None, None
    alone = [statistics.threshold_step(run, threshold) for run in curve]
    step = statistics.threshold_step(statistics.mean_curve(curve), threshold)
    return None if step is None else int(numbers[step - 1]), sum(found is not None for found in alone)


def _improvement(environments: Sequence[dict[str, Runs]], name: str, baseline: str) -> Estimate:
    # Over those alone that the baseline has runs on, it would be about other tasks
    if name == baseline or not all(baseline in systems for systems in environments):
        return UNKNOWN
    return statistics.probability_of_improvement(
        [(systems[name].mean_returns, systems[baseline].mean_returns) for systems in environments]
    )
