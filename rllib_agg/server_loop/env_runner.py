"""Env runners that run any agent's episode and keep nothing of it."""

from __future__ import annotations

import traceback
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rl_agg.population.server import OutOfStepError


class Failure(str):
    """The traceback of what an environment raised."""


class OutOfStep:
    """What a runner answers whose parameters cannot follow the server's: it needs the whole broadcast."""


class EpisodicEnvRunner(SingleAgentEnvRunner):
    """Runs agents' episodes on request; where it evaluates, it is RLlib's runner."""

    config: Any
    env: Any

    @cached_property
    def agents(self) -> Any:
        """What runs episodes, with environments of its own."""
        return self.config.open_agents(self.worker_index or 0)

    def make_env(self) -> None:
        """RLlib's, with the agents' time limit, for which environments must be made one by one."""
        super().make_env()
        limit = self.config.max_episode_steps
        if limit is None:
            return
        copies = self.env.unwrapped
        if not isinstance(copies, SyncVectorEnv):
            raise ValueError(f"max_episode_steps={limit} needs gym_env_vectorize_mode='sync'")
        copies.envs = [TimeLimit(env, limit) for env in copies.envs]

    def run_agents(self, broadcast: Any, agents: NDArray[np.int64]) -> Any:
        """Run an episode with each of some agents, whose numbers ascend.

        :return: Their report, :class:`OutOfStep`, or a :class:`Failure`: were it raised here, Ray would take a healthy runner
            out of service.
        """
        try:
            return self.agents.run(broadcast, agents)
        except OutOfStepError:
            return OutOfStep()
        except Exception:
            return Failure(traceback.format_exc())

    def stop(self) -> None:
        """RLlib's, then the agents' environments."""
        super().stop()  # type: ignore[no-untyped-call]
        if "agents" in vars(self):
            self.agents.close()
