"""Costs of a system's runs: steps, time, messages, bytes. Axes: S seeds, A agents."""

from dataclasses import dataclass

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import UNKNOWN, Estimate
from rl_agg.study.analysis.runs import Runs

MESSAGES, BYTES, MU_REWARD, WIN_RATE = "agg/messages", "agg/bytes", "agg/mu_reward", "agg/win_rate"


@dataclass(frozen=True)
class Cost:
    """Average costs of a run, and the communication report's measures; NaN where a system does not record them.

    :param env_steps: Of all agents together, in a run.
    :param wall_time: Seconds of a run.
    :param messages: From all agents, in a run.
    :param bytes: Canonical, from all agents, in a run.
    :param mu_reward: Mean discounted return of the behaving agents, averaged over updates.
    :param mu_frequency: Messages per agent and update.
    :param mu_size: Canonical bytes per agent and update.
    :param win_rate: Mean over the end of training, in [0, 1].
    """

    environment: str
    system: str
    env_steps: float
    wall_time: float
    messages: float
    bytes: float
    mu_reward: Estimate
    mu_frequency: Estimate
    mu_size: Estimate
    win_rate: Estimate


def cost_of(runs: Runs, end_share: float) -> Cost:
    """Sum up the runs of one system on one environment."""
    return Cost(
        runs.environment,
        runs.system,
        _at_end(runs, "env_steps"),
        _at_end(runs, "wall_time"),
        _at_end(runs, MESSAGES),
        _at_end(runs, BYTES),
        _over_runs([statistics.mean_return(run) for run in runs.series(MU_REWARD)]) if runs.has(MU_REWARD) else UNKNOWN,
        _per_agent_and_update(runs, MESSAGES),
        _per_agent_and_update(runs, BYTES),
        _over_runs([statistics.end_return(run, end_share) for run in runs.series(WIN_RATE)])
        if runs.has(WIN_RATE)
        else UNKNOWN,
    )


def _at_end(runs: Runs, column: str) -> float:
    if not runs.has(column):
        return float("nan")
    return float(np.mean([statistics.known(run)[-1] for run in runs.series(column)]))


def _per_agent_and_update(runs: Runs, column: str) -> Estimate:
    if not runs.has(column):
        return UNKNOWN
    agents = [len(record.updates["agent_returns"].iloc[0]) for record in runs.records]
    updates = [int(numbers[-1]) for numbers in runs.series("update")]  # a record may be of several
    known = zip(runs.series(column), agents, updates, strict=True)
    return _over_runs([statistics.per_agent_and_update(*run) for run in known if run[1]])


def _over_runs(values: list[float]) -> Estimate:
    return statistics.bootstrap_interval([values], statistics.mean)
