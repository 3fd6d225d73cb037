"""Running a cell with one of RLlib's algorithms whose agents run an episode each: ES, DQL, EBCDQL, DAVIA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rllib_agg.server_loop import EpisodicAlgorithm
from rllib_agg.study.server_loop import CentralRunner, Seen


class EpisodicRunner(CentralRunner):
    """Takes ``explore`` as well; the environment's ``num_agents`` are the population."""

    num_agents = "population"
    elsewhere: ClassVar = {"model_config": "rl_module", "explore": "env_runners"}

    def look(self, algorithm: EpisodicAlgorithm, result: Mapping[str, Any]) -> Seen:
        """Each agent's episode, and the centre's apart."""
        report = algorithm.report
        agents = report.returns[report.agents < algorithm.config.population]
        sound = agents[np.isfinite(agents)]
        mean = float(sound.mean()) if len(sound) else float("nan")
        centre = result["env_runners"].get("centre", {}).get("episode_return_mean", np.nan)
        logged = result["learners"]["default_policy"]["agg"]
        scalars = {"agg/centre_return": float(centre), **{f"agg/{name}": float(value) for name, value in logged.items()}}
        return Seen(mean, len(agents), agents.tolist(), scalars)
