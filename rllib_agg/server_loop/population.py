"""Rounds in which every agent of a population runs an episode with what the centre broadcast, and the centre one itself."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    LEARNER_RESULTS,
)

from rl_agg.population import Report, merge
from rllib_agg.server_loop.loop import CentralAlgorithm, Centre


class MaskingCentre(Centre, Protocol):
    """One that leaves out agents."""

    num_masked: int


class EpisodicAlgorithm(CentralAlgorithm):
    """Has a population play; a subclass says what the centre is and how it gets into the module."""

    centre: MaskingCentre
    report: Report

    def everyone(self) -> NDArray[np.int64]:
        """All agents, and the centre."""
        return np.arange(self.config.population + 1)

    def merge_reports(self, reports: list[Report]) -> Report:
        """In the agents' order."""
        return merge(reports)

    def log_episodes(self, report: Report) -> tuple[int, int]:
        """Returns and lengths of the agents' episodes, and the centre's apart."""
        agents, sound = report.agents < self.config.population, report.present
        returns, lengths = report.returns[agents & sound], report.lengths[agents & sound]
        log = self.metrics.log_value
        if returns.size:
            reduced = {
                EPISODE_RETURN_MEAN: returns.mean(),
                EPISODE_RETURN_MIN: returns.min(),
                EPISODE_RETURN_MAX: returns.max(),
                EPISODE_LEN_MEAN: lengths.mean(),
                EPISODE_LEN_MIN: lengths.min(),
                EPISODE_LEN_MAX: lengths.max(),
            }
            for name, value in reduced.items():
                log((ENV_RUNNER_RESULTS, name), float(value), window=1)
        if (sound & ~agents).any():
            log((ENV_RUNNER_RESULTS, "centre", EPISODE_RETURN_MEAN), float(report.returns[~agents][0]), window=1)
            log((ENV_RUNNER_RESULTS, "centre", EPISODE_LEN_MEAN), float(report.lengths[~agents][0]), window=1)
        return int(report.lengths.sum()), len(report.agents)

    def log_round(self, report: Any) -> None:
        """Add how often an agent was left out so far."""
        super().log_round(report)
        self.metrics.log_value((LEARNER_RESULTS, DEFAULT_MODULE_ID, "agg", "masked_agents"), self.centre.num_masked, window=1)
