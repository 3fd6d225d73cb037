"""Rounds in which every agent of a population runs an episode with what the server broadcast, and the server one itself."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EPISODE_LEN_MEAN, EPISODE_RETURN_MEAN, LEARNER_RESULTS

from rl_agg.population import Environments, ListedEnvironments, Report, merge_reports, open_environments
from rl_agg.population.server import PopulationServer
from rllib_agg.aggregation._compat import UNSET, registered_env
from rllib_agg.envs.unequal_envs import UnequalEnvs
from rllib_agg.server_loop.config import ServerConfig
from rllib_agg.server_loop.loop import ServerAlgorithm

SERVER_KEY = "server"
"""Under which the server's own episode is logged."""


class PopulationConfig(ServerConfig):
    """Settings of a population of agents."""

    evaluated_with = (
        "env_to_module_connector",
        "module_to_env_connector",
        "clip_actions",
        "gym_env_vectorize_mode",
        "num_envs_per_env_runner",
    )
    not_used = (
        *ServerConfig.not_used,
        "grad_clip",
        "grad_clip_by",
        "train_batch_size_per_learner",
        "num_envs_per_env_runner",
    )

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.population = 50
        self.max_episode_steps: int | None = None
        self.gamma = 1.0

    def training(self, *, population: int = UNSET, max_episode_steps: int | None = UNSET, **kwargs: Any) -> Self:
        """Set up the training.

        :param population: A, agents, each one episode in an update.
        :param max_episode_steps: Ends episodes after so many steps; needed where the environment has no limit of its own.
        :param kwargs: RLlib's own, of which ``gamma`` and ``lr`` count.
        """
        super().training(**kwargs)
        return self.take(population=population, max_episode_steps=max_episode_steps)

    def validate(self) -> None:
        """Check the settings."""
        super().validate()
        if isinstance(registered_env(self.env), UnequalEnvs) and not self.in_evaluation:
            raise ValueError(
                f"{type(self).__name__}'s agents have no environments of their own, and those of {self.env!r} differ from "
                "agent to agent; use AggPPOConfig or A3CConfig"
            )

    def open_environments(self, worker_index: int) -> Environments:
        """Make the environments."""
        context = EnvContext(self.env_config, worker_index=worker_index, num_workers=self.num_env_runners)
        creator = registered_env(self.env) or (self.env if callable(self.env) else None)
        if creator is not None:
            return ListedEnvironments(lambda: creator(context))
        return open_environments(self.env, dict(self.env_config))


class PopulationAlgorithm(ServerAlgorithm):
    """Runs a population; a subclass builds the server and writes its state into the module."""

    server: PopulationServer
    report: Report
    join_reports = staticmethod(merge_reports)

    def participants(self) -> NDArray[np.int64]:
        """All agents, and the server."""
        return np.arange(self.config.population + 1)

    def read_module(self) -> None:
        """Take over the module's parameters: they may have been restored without the server."""
        self.server.theta = self.module.read()

    def log_episodes(self, report: Report) -> tuple[int, int]:
        """Returns and lengths of the agents' episodes, and the server's apart."""
        agents, finite = report.agents < self.config.population, report.present
        returns, lengths = report.returns[agents & finite], report.lengths[agents & finite]
        log = self.metrics.log_value
        if returns.size:
            for reduce in ("mean", "min", "max"):  # as RLlib calls them
                for name, values in (("return", returns), ("len", lengths)):
                    log((ENV_RUNNER_RESULTS, f"episode_{name}_{reduce}"), float(getattr(values, reduce)()), window=1)
        if (finite & ~agents).any():
            log((ENV_RUNNER_RESULTS, SERVER_KEY, EPISODE_RETURN_MEAN), float(report.returns[~agents][0]), window=1)
            log((ENV_RUNNER_RESULTS, SERVER_KEY, EPISODE_LEN_MEAN), float(report.lengths[~agents][0]), window=1)
        return int(report.lengths.sum()), len(report.agents)

    def log_round(self, report: Report) -> None:
        """Add how many agents were left out so far."""
        super().log_round(report)
        self.metrics.log_value((LEARNER_RESULTS, DEFAULT_MODULE_ID, "agg", "masked_agents"), self.server.num_masked, window=1)
