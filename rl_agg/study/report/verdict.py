"""What a study's numbers say, in words: who is best, by how much, and whether that is established."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import Estimate
from rl_agg.study.analysis.comparisons import UPDATES, Comparison, count_pairs, paired, scores_of
from rl_agg.study.analysis.results import Overall, Results, Row
from rl_agg.study.report.wording import decimals_of, in_words, listed, number

FEWEST_SEEDS = 3
"""Of each environment, for a claim about all of them: with two, equal systems pass for different in one study of fourteen."""


@dataclass(frozen=True)
class Verdict:
    """A conclusion in one sentence, and what it rests on."""

    headline: str
    detail: str = ""


def verdicts(results: Results) -> list[Verdict]:
    """One for each environment, and one for all together where there are several.

    A difference counts as established where the bootstrap interval of the paired difference in R̄ excludes zero at equal
    updates, or seconds where the budget is time, and at equal env steps, and there are enough seeds for that to mean anything
    (:func:`rl_agg.statistics.enough_pairs`). Over all environments it is the probability of improvement that must exclude one
    half on both.
    """
    told = []
    challengers = [each for each in results.overall if not math.isnan(each.improvement.value)]
    if challengers:
        told.append(_overall_verdict(challengers, results))
    told += [_verdict(environment, rows, results) for environment, rows in results.rows_by_environment.items()]
    return told or [Verdict("No run has finished yet.")]


def _overall_verdict(challengers: list[Overall], results: Results) -> Verdict:
    baseline, together = results.study.baseline, f"All {len(results.runs)} environments together"
    claims = {each.system: _claim(each.system, results) for each in challengers}
    # First who is established to be better, then whoever has an interval
    best = max(
        challengers, key=lambda each: (claims[each.system], not math.isnan(each.improvement.low), each.improvement.value)
    )
    num_runs = sum(int((~np.isnan(runs[best.system].mean_returns)).sum()) for runs in results.runs.values())
    interval = "" if math.isnan(best.improvement.low) else "95 % interval, "
    detail = (
        f"{best.system} is the likeliest to beat it: a run of it is better with probability {in_words(best.improvement, 2)} "
        f"({interval}{num_runs} runs)."
    )
    if claims[best.system] > 0:
        return Verdict(f"{together}: {best.system} is better than {baseline}.", detail)
    if all(claim < 0 for claim in claims.values()):
        return Verdict(f"{together}: {baseline} is better than {listed(list(claims))}.", detail)
    return Verdict(f"{together}: not established that any system is better than {baseline}.", detail)


def _claim(system: str, results: Results) -> int:
    """1 if over all environments its runs are established to beat the baseline's on every basis, -1 if to lose."""
    baseline = results.study.baseline
    pairs = {name: (runs[system], runs[baseline]) for name, runs in results.runs.items()}
    by_basis = list(zip(*(scores_of(pair, results.bases(name)) for name, pair in pairs.items()), strict=True))
    for scores in by_basis:
        numbers = [count_pairs(*paired(*pair, each)) for pair, each in zip(pairs.values(), scores, strict=True)]
        if min(numbers) < FEWEST_SEEDS or not statistics.enough_pairs(sum(numbers)):
            return 0
    estimates = [
        statistics.probability_of_improvement([(each.by_system[system], each.by_system[baseline]) for each in scores])
        for scores in by_basis
    ]
    return int(all(each.low > 0.5 for each in estimates)) - int(all(each.high < 0.5 for each in estimates))


def _verdict(environment: str, rows: list[Row], results: Results) -> Verdict:
    ranked = [row for row in rows if not math.isnan(row.mean_return.value)]
    if not ranked:
        return Verdict(f"{environment}: no run has finished an episode.")
    best, others = ranked[0], [row.system for row in ranked[1:]]
    mean_return = number(best.mean_return.value, decimals_of(best.mean_return))
    opening = f"{best.system} has the highest mean return over training, R̄ = {mean_return}"
    if not others:
        return Verdict(f"{environment}: nothing to compare {best.system} with.", f"{opening}.")
    baseline = results.study.baseline
    rival = baseline if baseline in others else others[0]
    lead = best.mean_return.value - next(row.mean_return.value for row in ranked if row.system == rival)
    beaten = {name: results.comparisons(environment, best.system, name) for name in others}
    share = f" ({number(best.mean_return_percent, 1)} %)" if rival == baseline and best.mean_return_percent > 0 else ""
    told = [f"{opening}."]
    for comparison in beaten[rival]:
        if math.isnan(comparison.difference.value):
            continue
        # The lead in R̄ itself only where runs are as long and of the same seeds
        if comparison.basis == UPDATES and math.isclose(comparison.difference.value, lead, rel_tol=1e-6):
            told = [f"{opening}: {_lead(comparison.difference, rival + share)}."]
        else:
            told.append(f"At equal {comparison.basis} it is {_lead(comparison.difference, rival)}.")
    claim = "established" if _established(beaten[rival]) else "not established"
    parts = [
        *told,
        _doubts(beaten[rival]),
        _rest({name: pair for name, pair in beaten.items() if name != rival}, best.system),
    ]
    return Verdict(
        f"{environment}: {claim} that {best.system} is better than {rival}.", " ".join(part for part in parts if part)
    )


def _established(pair: Sequence[Comparison]) -> bool:
    """Whether the first of two systems is better on every basis."""
    return all(comparison.outcome == "better" for comparison in pair)


def _lead(difference: Estimate, rival: str) -> str:
    decimals = decimals_of(difference)
    lead = f"{number(abs(difference.value), decimals)} {'below' if difference.value < 0 else 'above'} {rival}"
    if math.isnan(difference.low):
        return lead
    low, high = number(difference.low, decimals), number(difference.high, decimals)
    return f"{lead}, 95 % interval of the paired difference {low} to {high}"


def _doubts(pair: Sequence[Comparison]) -> str:
    """Why it is not established; nothing where it is."""
    if _established(pair):
        return ""
    doubts = {comparison.basis: comparison.doubt or "It is worse." for comparison in pair if comparison.outcome != "better"}
    if len(doubts) == len(pair) and len(set(doubts.values())) == 1:
        return next(iter(doubts.values()))
    return " ".join(f"At equal {basis}: {doubt[0].lower()}{doubt[1:]}" for basis, doubt in doubts.items())


def _rest(beaten: dict[str, list[Comparison]], best: str) -> str:
    """What is established about the leader and each of the others."""
    sure = [name for name, pair in beaten.items() if _established(pair)]
    unsure = [name for name in beaten if name not in sure]
    told = [f"Established: it is better than {listed(sure)}."] if sure else []
    if unsure:
        told.append(f"Not established: whether {best} is better than {listed(unsure, 'or')}.")
    return " ".join(told)
