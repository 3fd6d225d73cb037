"""What a study's numbers say, in words: who is best, by how much, and whether that is established."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rl_agg import statistics
from rl_agg.study.results import Overall, Results, Row, Runs
from rl_agg.study.tables import in_words, number


@dataclass(frozen=True)
class Verdict:
    """A conclusion in one sentence, and what it rests on."""

    headline: str
    detail: str = ""


def verdicts(results: Results) -> list[Verdict]:
    """One for each environment, and one for all together where there are several.

    A difference counts as established where the bootstrap interval of the paired difference in R̄ excludes zero, and there are
    enough seeds for that to mean anything (:func:`rl_agg.statistics.enough_pairs`).
    """
    told = [
        _verdict(environment, rows, results.runs[environment], results.study.baseline)
        for environment, rows in results.rows_by_environment.items()
    ]
    challengers = [each for each in results.overall if not math.isnan(each.improvement.value)]
    if challengers:
        told.append(_overall_verdict(max(challengers, key=lambda each: each.improvement.value), results))
    return told or [Verdict("No run has finished yet.")]


def _overall_verdict(best: Overall, results: Results) -> Verdict:
    baseline = results.study.baseline
    pairs = sum(len(runs[best.system].seeds) for runs in results.runs.values())
    detail = (
        f"{best.system} is the likeliest to beat it: a run of it is better with probability {in_words(best.improvement, 2)} "
        f"(95 % interval, {pairs} runs)."
    )
    if best.improvement.low > 0.5 and statistics.enough_pairs(pairs):
        return Verdict(f"All {len(results.runs)} environments together: {best.system} is better than {baseline}.", detail)
    return Verdict(
        f"All {len(results.runs)} environments together: not established that any system is better than {baseline}.", detail
    )


def _verdict(environment: str, rows: list[Row], runs: dict[str, Runs], baseline: str) -> Verdict:
    ranked = sorted((row for row in rows if not math.isnan(row.mean_return.value)), key=lambda row: -row.mean_return.value)
    if not ranked:
        return Verdict(f"{environment}: no run has finished an episode.")
    best, others = ranked[0], [row.system for row in ranked[1:]]
    opening = f"{best.system} has the highest mean return over training, R̄ = {number(best.mean_return.value)}"
    if not others:
        return Verdict(f"{environment}: nothing to compare {best.system} with.", f"{opening}.")
    rival = baseline if baseline in others else others[0]
    first, second = runs[best.system].common_seeds(runs[rival])
    difference = statistics.paired_difference(first, second)
    share = f" ({number(best.mean_return_percent, 1)} %)" if rival == baseline and best.mean_return_percent > 0 else ""
    reason = _reason(difference, len(first))
    claim = "established" if reason is None else "not established"
    detail = f"{opening}: {number(difference.value)} above {rival}{share}"
    if not math.isnan(difference.low):
        detail += f", 95 % interval of the paired difference {number(difference.low)} to {number(difference.high)}"
    detail += f". {reason}" if reason else "."
    return Verdict(f"{environment}: {claim} that {best.system} is better than {rival}.", detail)


def _reason(difference: statistics.Estimate, num_pairs: int) -> str | None:
    """Why a difference is not established; ``None`` where it is."""
    if math.isnan(difference.low):
        return "With fewer than two seeds in common there is no interval."
    if not difference.excludes_zero:
        return "The interval includes 0."
    if not statistics.enough_pairs(num_pairs):
        chance = number(100 * 2.0 ** (1 - num_pairs), 0)
        return f"The interval leaves out 0, but {num_pairs} seeds agree by chance in {chance} % of studies: use at least 6."
    return None
