"""Who an agent is, and what it returned: two columns that travel with the samples.

``agg_agent`` names the agent of every time step. ``agg_return`` is NaN except on the step that ended an episode, where it is
the whole undiscounted return of that episode, chunks of earlier rollouts included. Both are columns because RLlib cuts,
slices and shards episodes between here and the learner, and an episode's ``custom_data`` is lost on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_agg.aggregation._compat import write_column

AGENT = "agg_agent"
RETURN = "agg_return"

AGENT_CHOICES = ("sub_env", "env_runner")


def agent_number(agents: str, worker_index: int | None, num_envs_per_env_runner: int, env_index: int) -> int:
    """Which agent a sub-environment is, 0 to A - 1.

    :param agents: ``"sub_env"`` or ``"env_runner"``.
    :param worker_index: RLlib's number of the env runner: 0 or ``None`` the local one, the remote ones from 1 on. A runner
        that is restarted keeps it.
    """
    runner = max(0, (worker_index or 0) - 1)
    return runner * num_envs_per_env_runner + env_index if agents == "sub_env" else runner


def agent_of(episode: Any) -> int:
    """The agent that a tagged episode, single- or multi-agent, comes from."""
    chunk = next(chunk for chunk in single_agent_episodes(episode) if len(chunk))
    return int(chunk.get_extra_model_outputs(AGENT, 0))


def single_agent_episodes(episode: Any) -> Iterator[Any]:
    """The episode itself, or those of its agents if it is a multi-agent one."""
    if hasattr(episode, "agent_episodes"):
        yield from episode.agent_episodes.values()
    else:
        yield episode


class AgentTagging(RLlibCallback):
    """Writes :data:`AGENT` and :data:`RETURN` on an env runner; appended to the user's own callbacks.

    In a multi-agent environment an agent in the sense of this package is a copy of the environment, and each policy's
    samples carry the return of their own episode in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._agents: dict[str, int] = {}
        self._newest: dict[int, str] = {}
        self._so_far: dict[str, dict[Any, float]] = {}

    def on_episode_created(self, *, episode: Any, env_runner: Any = None, env_index: int, **kwargs: Any) -> None:
        """Record which agent the episode belongs to."""
        config, index = env_runner.config, env_runner.worker_index
        self._agents[episode.id_] = agent_number(config.agents, index, config.num_envs_per_env_runner, env_index)
        self._newest[env_index] = episode.id_

    def on_sample_end(self, *, samples: Any, **kwargs: Any) -> None:
        """Write the columns into every chunk that goes to a learner."""
        for episode in samples:
            so_far = self._so_far.setdefault(episode.id_, {})
            for chunk in single_agent_episodes(episode):
                if len(chunk):
                    self._write(chunk, self._agents[episode.id_], so_far)
        # An episode that is over, or was thrown away by a reset, does not come again.
        alive = set(self._newest.values())
        self._agents = {id_: agent for id_, agent in self._agents.items() if id_ in alive}
        self._so_far = {id_: returns for id_, returns in self._so_far.items() if id_ in alive}

    @staticmethod
    def _write(chunk: Any, agent: int, so_far: dict[Any, float]) -> None:
        so_far[chunk.agent_id] = so_far.get(chunk.agent_id, 0.0) + float(chunk.get_return())
        returns = np.full(len(chunk), np.nan, np.float32)
        if chunk.is_done:
            total = so_far.pop(chunk.agent_id)
            # NaN stands for an unknown return; an agent whose return is NaN has to be masked, which infinity stands for.
            returns[-1] = np.inf if math.isnan(total) else total
        write_column(chunk, AGENT, np.full(len(chunk), agent, np.int64))
        write_column(chunk, RETURN, returns)
