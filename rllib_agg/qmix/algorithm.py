"""QMIX, VDN and independent Q-learning with recurrent networks, each agent's own or one for all.

Source: Rashid et al. (2018); Sunehag et al. (2018); merges of the agents' networks: Zhang et al. (2024).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_NON_TRAINABLE_PARAMETERS,
    NUM_TRAINABLE_PARAMETERS,
)

from rl_agg.seeding import fresh_run, stream
from rllib_agg.aggregation._compat import OwnReplay
from rllib_agg.qmix.config import QMIXConfig
from rllib_agg.qmix.metrics import log_played, smoothing
from rllib_agg.qmix.rollout import TeamPlayers, TeamReport, merge
from rllib_agg.qmix.server import TeamCentre
from rllib_agg.server_loop.loop import CentralAlgorithm


class QMIX(OwnReplay, CentralAlgorithm):
    """Groups of teams play an episode each; a centre learns from the last thousands of them."""

    centre: TeamCentre
    agents: TeamPlayers
    report: TeamReport

    @classmethod
    def get_default_config(cls) -> QMIXConfig:
        """The config it is built from."""
        return QMIXConfig()

    def setup(self, config: Any) -> None:
        """RLlib's, then the centre."""
        super().setup(config)
        sharing = self.config.parameter_sharing
        if sharing in ("rs_pps", "pp_pps") and self.config.credit_for(self.agents.env.spec) == "team":
            warnings.warn(
                f"parameter_sharing={sharing!r} with credit='team' counts all agents alike"
                + (", which is 'a_pps'" if sharing == "rs_pps" else ""),
                UserWarning,
                stacklevel=2,
            )

    def make_centre(self) -> TeamCentre:
        """Begin with parameters of the run's own, or those of a module that was loaded."""
        run = fresh_run() if self.config.seed is None else int(self.config.seed)
        if self.config.rl_module_spec.load_state_path is None:
            generator = torch.Generator().manual_seed(int(stream("start", run).integers(2**63)))
            module = self.learner.team
            drawn = copy.deepcopy(module).cpu()  # on which the same is drawn, wherever it learns
            orthogonal = self.config.model_config["orthogonal_init"]
            drawn.initialize(generator, orthogonal=orthogonal, same=self.config.same_init)
            module.load_state_dict(drawn.state_dict())
        return TeamCentre(self.config, self.agents.env.spec, self.learner, run)

    def everyone(self) -> NDArray[np.int64]:
        """All groups of a round."""
        return np.arange(self.config.rollouts_per_iteration or max(1, self.config.num_env_runners))

    def merge_reports(self, reports: list[TeamReport]) -> TeamReport:
        """In the groups' order."""
        return merge(reports)

    def log_episodes(self, report: TeamReport) -> tuple[int, int]:
        """Returns, lengths and wins."""
        credits = self.config.credit_for(self.agents.env.spec) != "team"
        for played in report.played:
            log_played(
                self.metrics.log_value, played, window=smoothing(self.config), prefix=(ENV_RUNNER_RESULTS,), credits=credits
            )
        num_episodes = sum(len(played.episodes) for played in report.played)
        return sum(played.num_steps for played in report.played), num_episodes

    def log_round(self, report: TeamReport) -> None:
        """Add what the learner measured."""
        super().log_round(report)
        if self.centre.has_learned:
            measured = self.learner.metrics.reduce()[DEFAULT_MODULE_ID]
            for name in (NUM_TRAINABLE_PARAMETERS, NUM_NON_TRAINABLE_PARAMETERS):  # told once, and NaN ever after
                measured.pop(name, None)
            self.metrics.aggregate([measured], key=(LEARNER_RESULTS, DEFAULT_MODULE_ID))
