"""One system against another, seed by seed, at equal updates, or seconds, and at equal env steps. Axes: U updates, S seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import Array, Estimate
from rl_agg.study.analysis.runs import Runs
from rl_agg.study.spec.study import Environment

UPDATES, ENV_STEPS, SECONDS = "updates", "env steps", "seconds"
COLUMNS = {ENV_STEPS: "env_steps", SECONDS: "wall_time"}
"""The records' column of each."""


def bases_of(environment: Environment) -> tuple[str, str]:
    """The bases on which systems are compared: seconds if these are the budget, else updates; and env steps."""
    of_time = environment.budget is not None and environment.budget.seconds is not None
    return (SECONDS if of_time else UPDATES), ENV_STEPS


@dataclass(frozen=True)
class Scores:
    """Mean returns of runs over a stretch of training that all of them cover.

    :param basis: What the stretch is equal in, :data:`UPDATES`, :data:`SECONDS` or :data:`ENV_STEPS`.
    :param low: Where it begins.
    :param high: Where it ends; NaN where runs have no such stretch in common.
    :param by_system: Mean return of each run over it ``[S]``, in the order of its seeds.
    """

    basis: str
    low: float
    high: float
    by_system: dict[str, Array]


@dataclass(frozen=True)
class Comparison:
    """A system against another.

    :param difference: Mean of the paired differences in :class:`Scores`.
    :param num_pairs: Seeds that both have, with a known score.
    :param doubt: Why no difference is established; ``None`` where one is.
    """

    system: str
    reference: str
    basis: str
    difference: Estimate
    num_pairs: int
    doubt: str | None

    @property
    def outcome(self) -> str:
        """``better`` or ``worse``, if that is established."""
        if self.doubt is not None:
            return "not established"
        return "better" if self.difference.value > 0 else "worse"


def scores_of(systems: Sequence[Runs], bases: Sequence[str]) -> list[Scores]:
    """Score runs of one environment on each basis; of two systems, as the short run of a third would shorten the stretch."""
    return [_over_updates(systems) if basis == UPDATES else _over(basis, systems) for basis in bases]


def _over_updates(systems: Sequence[Runs]) -> Scores:
    """The mean of the returns up to the shortest run's end, so that it is R̄ where all are as long."""
    returns = {runs.system: list(zip(runs.series("update"), runs.series("return"), strict=True)) for runs in systems}
    shortest = min((int(updates[-1]) for own in returns.values() for updates, _ in own), default=0)
    by_system = {
        name: np.array([statistics.mean_return(run[updates <= shortest]) for updates, run in own])
        for name, own in returns.items()
    }
    return Scores(UPDATES, 1, shortest, by_system)


def _over(basis: str, systems: Sequence[Runs]) -> Scores:
    """The mean of the lines through the returns, from where every run has its first return to where the first ends."""
    curves = {runs.system: list(zip(runs.series(COLUMNS[basis]), runs.series("return"), strict=True)) for runs in systems}
    # A run that finished no episode at all has no score; it must not cost the others theirs
    known = [(x, y) for own in curves.values() for x, y in own if not np.isnan(y).all()]
    low, high = statistics.common_range([x for x, _ in known], [y for _, y in known])
    by_system = {name: np.array([statistics.mean_over_range(x, y, low, high) for x, y in own]) for name, own in curves.items()}
    return Scores(basis, low, high, by_system)


def paired(system: Runs, reference: Runs, scores: Scores) -> tuple[Array, Array]:
    """The scores of the seeds that both have ``[S]``, NaN where a run has none."""
    common = [seed for seed in system.seeds if seed in reference.seeds]
    first = scores.by_system[system.system][[system.seeds.index(seed) for seed in common]]
    second = scores.by_system[reference.system][[reference.seeds.index(seed) for seed in common]]
    return first, second


def count_pairs(first: Array, second: Array) -> int:
    """The number of seeds in which both have a score."""
    return int((~np.isnan(first - second)).sum())


def against(system: Runs, reference: Runs, scores: Scores) -> Comparison:
    """Compare the seeds that both have."""
    first, second = paired(system, reference, scores)
    difference, num_pairs = statistics.paired_difference(first, second), count_pairs(first, second)
    if math.isnan(scores.high) or (len(first) > 1 > num_pairs):
        doubt: str | None = f"The runs have no {scores.basis} in common in which they finished episodes."
    else:
        doubt = _doubt(difference, num_pairs)
    return Comparison(system.system, reference.system, scores.basis, difference, num_pairs, doubt)


def _doubt(difference: Estimate, num_pairs: int) -> str | None:
    if math.isnan(difference.low):
        return "With fewer than two pairs of runs there is no interval."
    if not difference.excludes_zero:
        return "The interval includes 0."
    if not statistics.enough_pairs(num_pairs):
        chance = f"{100 * 2.0 ** (1 - num_pairs):.0f}"
        return f"The interval leaves out 0, but {num_pairs} seeds agree by chance in {chance} % of studies: use at least 6."
    return None
