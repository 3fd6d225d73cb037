"""What a study establishes, in words: which system is best, by how much, and whether the data suffice to say so."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.study.analysis.comparisons import Comparison, count_pairs, paired, scores_of
from rl_agg.study.analysis.results import LARGEST_RETURN, Overall, Results, Row
from rl_agg.study.analysis.wording import in_short, in_words, listed
from rl_agg.study.terminal import counted

FEWEST_SEEDS = 3
"""Of each environment, for a claim about all of them: with two, equal systems pass for different in one study of fourteen."""


@dataclass(frozen=True)
class Verdict:
    """A conclusion in one sentence, and the numbers behind it."""

    headline: str
    detail: str = ""


def verdicts(results: Results) -> list[Verdict]:
    """One for each environment, after one for all together where there are several.

    A difference is established if :class:`~rl_agg.study.analysis.comparisons.Comparison` has no doubt about it on any basis.
    Over all environments it is the probability of improvement whose interval must exclude one half on each basis.
    """
    challengers = [each for each in results.overall if not math.isnan(each.improvement.value)]
    overall = [_overall_verdict(challengers, results)] if challengers else []
    each = [_verdict(environment, rows, results) for environment, rows in results.rows_by_environment.items()]
    return [*overall, *each] or [Verdict("No run has finished yet.")]


def _overall_verdict(challengers: list[Overall], results: Results) -> Verdict:
    baseline = results.study.baseline
    claims = {each.system: _claim(each.system, results) for each in challengers}
    # First a system that is established to be better, then one whose interval is known
    best = max(
        challengers, key=lambda each: (claims[each.system], not math.isnan(each.improvement.low), each.improvement.value)
    )
    everywhere = f"all {len(results.runs)} environments"
    chance = f"a run of {best.system} beats one of {baseline} with probability {in_short(best.improvement, 2)}"
    if claims[best.system] > 0:
        headline = f"{best.system} is better than {baseline} over {everywhere}: {chance}."
    elif all(claim < 0 for claim in claims.values()):
        headline = f"{baseline} is better than {listed(claims)} over {everywhere}: {chance}."
    else:
        headline = f"No system is established to be better than {baseline} over {everywhere}: {chance}."
    num_runs = sum(int((~np.isnan(runs[best.system].mean_returns)).sum()) for runs in results.runs.values())
    return Verdict(headline, f"P(better) of {best.system} is from {counted(num_runs, 'run')}.")


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
        if any(runs.num_infinite for runs in results.runs[environment].values()):
            return Verdict(
                f"No return on {environment} counts: all are NaN, infinite or beyond {LARGEST_RETURN:.0e}.",
                "Algorithms with aggregation mask such agents: their gradients do not count either.",
            )
        return Verdict(f"No run has finished an episode on {environment}.")
    best, others = ranked[0], [row.system for row in ranked[1:]]
    highest = f"{best.system} {in_short(best.mean_return)}"
    if not others:
        return Verdict(f"Nothing to compare on {environment} yet. Mean return over training: {highest}.")
    rival = results.study.baseline if results.study.baseline in others else others[0]
    pairs = {name: results.comparisons(environment, best.system, name) for name in others}
    established = [name for name, pair in pairs.items() if all(each.outcome == "better" for each in pair)]
    unsure = [name for name in others if name not in (*established, rival)]
    value = in_short(dataclasses.replace(best.mean_return, low=math.nan, high=math.nan))
    lead = f"{value} ({in_short(pairs[rival][0].difference, sign='+')})"
    if rival in established:
        headline = f"{best.system} is better than {rival} on {environment}: mean return {lead}."
    else:
        headline = f"No clear winner on {environment}. Best mean: {best.system} {lead} against {rival}."
    sentences = [*map(_difference, pairs[rival]), *dict.fromkeys(filter(None, (each.doubt for each in pairs[rival])))]
    if also := [name for name in established if name != rival]:
        sentences.append(f"Established: better than {listed(also)}.")
    if unsure:
        sentences.append(f"Not established: better than {listed(unsure)}.")
    return Verdict(headline, " ".join(sentences))


def _difference(pair: Comparison) -> str:
    return f"Difference from {pair.reference} at equal {pair.basis}: {in_words(pair.difference)}, {pair.outcome}."
