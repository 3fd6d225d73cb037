"""Who an agent is, and what it returned: two columns that travel with the samples.

``agg_agent`` names the agent of every time step. ``agg_return`` is NaN except on the step that ended an episode, where it is
the whole undiscounted return of that episode, chunks of earlier rollouts included. Both are columns because RLlib cuts,
slices and shards episodes between here and the learner, and an episode's ``custom_data`` is lost on the way.
"""

from __future__ import annotations

import copyreg
import itertools
import logging
import math
from abc import ABCMeta
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.util import log_once

from rllib_agg.aggregation._compat import write_column

logger = logging.getLogger(__name__)

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
    chunk = next(single_agent_episodes(episode))
    return int(chunk.get_extra_model_outputs(AGENT, 0))


def single_agent_episodes(episode: Any) -> Iterator[Any]:
    """The episode itself, or those of its agents if it is a multi-agent one; those without a step are left out."""
    parts = episode.agent_episodes.values() if hasattr(episode, "agent_episodes") else [episode]
    return (chunk for chunk in parts if len(chunk))


def tag(chunk: Any, agent: int, total: float | None) -> None:
    """Write the columns of a chunk of an episode.

    :param agent: Whose it is.
    :param total: The return of the episode that ends with it; ``None``: it does not end, or the return is not known.
    """
    returns = np.full(len(chunk), np.nan, np.float32)
    if total is not None:
        # NaN stands for an unknown return; an agent whose return is NaN has to be masked, which infinity stands for.
        returns[-1] = np.inf if math.isnan(total) else total
    write_column(chunk, AGENT, np.full(len(chunk), agent, np.int64))
    write_column(chunk, RETURN, returns)


def tag_untagged(episodes: Iterable[Any]) -> None:
    """Count what no env runner has tagged as agent 0's, and say so once.

    A return is known of whole episodes only: nothing relates the chunks of others.
    """
    for episode in episodes:
        for chunk in single_agent_episodes(episode):
            if AGENT not in chunk.extra_model_outputs:
                tag(chunk, 0, _own_total(chunk))
                warn_of_untagged()


def warn_of_untagged() -> None:
    """Say once what becomes of samples that do not say whose they are."""
    if log_once("agg_untagged"):
        logger.warning(
            "Samples do not say which agent they come from, as those of env runners that run rllib_agg's AgentTagging do: "
            "all of them count as agent 0's."
        )


class TagUntagged(ConnectorV2):
    """The first piece of a learner's pipeline, for episodes from elsewhere than RLlib's env runners."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, *, episodes: list[Any], batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Tag the episodes, in place."""
        tag_untagged(episodes)
        return batch


class AgentTagging(RLlibCallback):
    """Writes :data:`AGENT` and :data:`RETURN` on an env runner; appended to the user's own callbacks.

    In a multi-agent environment an agent in the sense of this package is a copy of the environment, and each policy's
    samples carry the return of their own episode in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._agents: dict[str, int] = {}
        self._newest: dict[Any, str] = {}
        self._so_far: dict[str, dict[Any, float]] = {}

    def on_episode_created(self, *, episode: Any, env_runner: Any = None, env_index: int, **kwargs: Any) -> None:
        """Record which agent the episode belongs to."""
        self.admit(episode, agent_on(env_runner, env_index), env_index)

    def admit(self, episode: Any, agent: int, place: Any) -> None:
        """Record an episode's agent, and that the one before it in its place does not come again."""
        self._agents[episode.id_] = agent
        self._newest[place] = episode.id_

    def leave(self, place: Any) -> None:
        """Forget the episode in a place after the next sample."""
        del self._newest[place]

    def on_sample_end(self, *, samples: Any, **kwargs: Any) -> None:
        """Write the columns into every chunk that goes to a learner, but for those of episodes that were never created."""
        before: dict[str, dict[Any, float]] = self._so_far
        after: dict[str, dict[Any, float]] = {}
        for episode in samples:
            if episode.id_ not in self._agents:
                continue
            so_far = dict(before.get(episode.id_, {}))  # for each copy of a chunk anew
            for chunk in single_agent_episodes(episode):
                tag(chunk, self._agents[episode.id_], _total(chunk, so_far))
            after.setdefault(episode.id_, so_far)
        # An episode that is over, or was thrown away by a reset, does not come again.
        alive = set(self._newest.values())
        self._agents = {id_: agent for id_, agent in self._agents.items() if id_ in alive}
        self._so_far = {id_: returns for id_, returns in {**before, **after}.items() if id_ in alive}


def tag_added(*, samples: Any, env_runner: Any = None, **kwargs: Any) -> None:
    """Tag episodes that callbacks have added as those of the sampled episodes' agents, in turn; the last callback of all."""
    tagged = [agent_of(episode) for episode in samples if _is_tagged(episode)]
    agents = itertools.cycle(tagged or [agent_on(env_runner, 0)])
    for episode in samples:
        if not _is_tagged(episode):
            agent = next(agents)
            for chunk in single_agent_episodes(episode):
                tag(chunk, agent, _own_total(chunk))


class TagsSamples:
    """Goes in front of an env runner that calls no callbacks, as RLlib's for external environments: it is one agent."""

    config: Any
    worker_index: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tagging = AgentTagging()

    def sample(self, **kwargs: Any) -> Any:
        """Those of the env runner, tagged."""
        samples = super().sample(**kwargs)  # type: ignore[misc]
        untagged = [episode for episode in samples if not _is_tagged(episode)]
        for episode in untagged:
            self._tagging.admit(episode, agent_on(self, 0), episode.id_)
            if episode.is_done:
                self._tagging.leave(episode.id_)
        self._tagging.on_sample_end(samples=untagged)
        return samples


class _Tagging(ABCMeta):
    """Of classes that are pickled by what they were made of."""


def tagging(runner: type) -> type:
    """An env runner's class whose samples are tagged even where it calls no callbacks."""
    return _Tagging(runner.__name__, (TagsSamples, runner), {})


copyreg.pickle(_Tagging, lambda kind: (tagging, kind.__bases__[1:]))  # type: ignore[arg-type, return-value]


def agent_on(env_runner: Any, env_index: int) -> int:
    """Which agent a sub-environment of an env runner is."""
    config = env_runner.config
    return agent_number(config.agents, env_runner.worker_index, config.num_envs_per_env_runner, env_index)


def _is_tagged(episode: Any) -> bool:
    return any(AGENT in chunk.extra_model_outputs for chunk in single_agent_episodes(episode))


def _total(chunk: Any, so_far: dict[Any, float]) -> float | None:
    """The return of the episode that a chunk ends; ``None`` if it goes on, which is noted."""
    total = so_far.pop(chunk.agent_id, 0.0) + float(chunk.get_return())
    if chunk.is_done:
        return total
    so_far[chunk.agent_id] = total
    return None


def _own_total(chunk: Any) -> float | None:
    """The return of an episode that is a chunk as a whole."""
    return float(chunk.get_return()) if chunk.is_done and not chunk.t_started else None
