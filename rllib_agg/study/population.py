"""A study's runner for algorithms whose agents run an episode each: ES, DQL, EBCDQL, DAVIA, TDEF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rllib_agg.server_loop import PopulationAlgorithm
from rllib_agg.study.base import STEPS, Observed, agg_scalars
from rllib_agg.study.server_loop import ServerLoopRunner


class EpisodicRunner(ServerLoopRunner):
    """Takes ``explore`` as well; the environment's ``num_agents`` are the population."""

    num_agents = "population"
    elsewhere: ClassVar = {"model_config": "rl_module", "explore": "env_runners"}

    def observe(self, algorithm: PopulationAlgorithm, result: Mapping[str, Any]) -> Observed:
        """Each agent's episode; the server's own are logged separately."""
        report = algorithm.report
        agents = report.returns[report.agents < algorithm.config.population]
        finite = agents[np.isfinite(agents)]
        mean = float(finite.mean()) if len(finite) else float("nan")
        server = result["env_runners"].get("server", {}).get("episode_return_mean", np.nan)
        scalars = {"agg/server_return": float(server), **agg_scalars(result)}
        return Observed(int(result[STEPS]), mean, len(agents), agents.tolist(), scalars)
