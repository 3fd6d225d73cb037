"""Env runners that run any agent's episode, and remember nothing of it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rl_agg.population import Report


@dataclass(frozen=True)
class Failure:
    """What an environment raised.

    :param text: Its traceback.
    """

    text: str


class EpisodicEnvRunner(SingleAgentEnvRunner):
    """Runs agents' episodes when asked to; where it evaluates, it is RLlib's runner."""

    config: Any
    env: Any

    def make_env(self) -> None:
        """RLlib's, with the agents' time limit.

        :raises ValueError: if there is one, and the environments are not made one by one.
        """
        super().make_env()
        limit = self.config.max_episode_steps
        if limit is None:
            return
        copies = self.env.unwrapped
        if not isinstance(copies, SyncVectorEnv):
            raise ValueError(f"max_episode_steps={limit} needs gym_env_vectorize_mode='sync'")
        copies.envs = [TimeLimit(env, limit) for env in copies.envs]

    def run_agents(self, order: Any, agents: NDArray[np.int64]) -> Report | Failure:
        """Run an episode with each.

        :param order: What the centre broadcast.
        :param agents: Which, ascending.
        """
        try:
            if not hasattr(self, "_agents"):
                self._agents = self.config.open_agents(self.worker_index or 0)
            report: Report = self._agents.run(order, agents)
            return report
        except Exception:  # told where it can be mended; raised here, Ray would take a sound runner out of service
            return Failure(traceback.format_exc())

    def stop(self) -> None:
        """RLlib's, then the agents' environments."""
        super().stop()  # type: ignore[no-untyped-call]
        if hasattr(self, "_agents"):
            self._agents.close()
