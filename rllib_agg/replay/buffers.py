"""RLlib's episode replays, which also know whose each sample is and what each agent returned last.

RLlib's draw samples without the columns of their episodes, and a return is that of an episode which has just ended, not of the
one that a sample comes from. So each stored episode names its agent, and the replay keeps the agents' returns.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ray.rllib.utils import force_list
from ray.rllib.utils.replay_buffers import EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer

from rllib_agg.aggregation._compat import last_sampled, num_priorities, set_newest_priorities, stored_episode, write_column
from rllib_agg.aggregation.agents import AGENT, RETURN, agent_of, tag_untagged

TD_ERROR = "agg_td_error"
"""The column of an episode that holds the errors of its steps, if an env runner has computed them."""


class AgentReplay(EpisodeReplayBuffer):
    """Names the agent, and its last return, in every sample.

    :param seed: Of the draws; ``None``: another in each run, as RLlib's.
    :param kwargs: RLlib's own.
    """

    rng: Any

    def __init__(self, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rng = np.random.default_rng(seed)
        self.returns: dict[int, float] = {}
        """The return of the last episode that each agent finished, of those that have finished one."""
        self.on_add: Callable[[list[Any]], None] | None = None
        """Called with tagged episodes before they are stored."""

    def add(self, episodes: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]  # as RLlib's own
        """Store episodes, or chunks of them; steps of RLlib's env runners say whose they are."""
        chunks = [chunk for chunk in force_list(episodes) if len(chunk)]
        tag_untagged(chunks)
        if self.on_add is not None:
            self.on_add(chunks)
        self._close_interrupted(chunks)
        for chunk in chunks:
            agent = agent_of(chunk)
            returns = np.asarray(chunk.get_extra_model_outputs(RETURN), dtype=np.float64)
            for value in returns[~np.isnan(returns)]:
                self.returns[agent] = float(value)
            chunk.custom_data[AGENT] = agent
            for name in (AGENT, RETURN):
                del chunk.extra_model_outputs[name]
        super().add(chunks, *args, **kwargs)

    def _close_interrupted(self, chunks: list[Any]) -> None:
        """Let a chunk begin an episode of its own if it does not follow on what is stored: an older state was restored."""
        ends: dict[str, int] = {}
        for chunk in chunks:
            if chunk.id_ in self.episode_id_to_index:
                stored = stored_episode(self, chunk.id_)
                if ends.get(chunk.id_, stored.t) != chunk.t_started:
                    stored.id_ = f"{chunk.id_}_until_{stored.t}"
                    self.episode_id_to_index[stored.id_] = self.episode_id_to_index.pop(chunk.id_)
            ends[chunk.id_] = chunk.t

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Draw samples as RLlib does; ``sample_episodes`` must be on, as RLlib's algorithms have it.

        :raises ValueError: if nothing has been sent yet.
        """
        if not self.get_num_timesteps():
            raise ValueError(
                "the replay is empty: the gate has let no transition through yet; lower its threshold "
                "(communication_kwargs={'epsilon': ...}), or raise num_steps_sampled_before_learning_starts"
            )
        samples: Any = super().sample(*args, **kwargs)
        for sample, episode in zip(samples, self.sources(samples), strict=True):
            agent = episode.custom_data[AGENT]
            write_column(sample, AGENT, np.full(len(sample), agent, np.int64))
            write_column(sample, RETURN, np.full(len(sample), self.returns.get(agent, math.nan), np.float32))
        return samples

    def sources(self, samples: list[Any]) -> list[Any]:
        """The stored episodes that samples were just drawn from, one for each."""
        return [stored_episode(self, sample.id_) for sample in samples]

    def get_state(self) -> dict[str, Any]:
        """RLlib's, with the returns and the state of the draws."""
        draws = json.dumps(self.rng.bit_generator.state)  # its numbers are too long for msgpack
        returns = list(self.returns.items())
        return {**super().get_state(), "returns": returns, "draws": draws, "capacity": self.capacity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_state`."""
        self.episodes.clear()  # RLlib keeps those that there are
        super().set_state(copy.deepcopy(state))  # whose lists RLlib shares
        self.returns = dict(state["returns"])
        self.rng.bit_generator.state = json.loads(state["draws"])


class PrioritizedAgentReplay(AgentReplay, PrioritizedEpisodeReplayBuffer):
    """Draws by priority, which new steps bring along if their env runner has computed their errors."""

    def add(self, episodes: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]  # as RLlib's own
        """As above; the errors of steps that have some are their first priorities.

        Source: Horgan et al. (2018), section 3.
        """
        chunks = [chunk for chunk in force_list(episodes) if len(chunk)]
        errors = [_pop_errors(chunk) for chunk in chunks]
        super().add(chunks, *args, **kwargs)
        stored = [own for chunk, own in zip(chunks, errors, strict=True) if chunk.id_ in self.episode_id_to_index]
        if stored:
            set_newest_priorities(self, np.abs(np.concatenate(stored)))

    def set_state(self, state: dict[str, Any]) -> None:
        """As above; ``ValueError`` if it has a priority for another number of steps."""
        known = num_priorities(self, state)
        if known != num_priorities(self):
            stored = state.get("capacity", known)
            raise ValueError(
                f"the stored replay has a capacity of {stored}, and RLlib does not restore its priorities into one of "
                f"{self.capacity}; set replay_buffer_config={{'capacity': {stored}}}"
            )
        super().set_state(state)

    def sources(self, samples: list[Any]) -> list[Any]:
        """By the priorities that were drawn."""
        return last_sampled(self)


def _pop_errors(chunk: Any) -> Any:
    """Errors of a chunk's steps ``[T]``, NaN where there are none; the chunk loses them."""
    if TD_ERROR not in chunk.extra_model_outputs:
        return np.full(len(chunk), np.nan)
    errors = np.asarray(chunk.get_extra_model_outputs(TD_ERROR))
    del chunk.extra_model_outputs[TD_ERROR]
    return errors


PRIORITIZED = "PrioritizedEpisodeReplayBuffer"

REPLAYS = {"EpisodeReplayBuffer": AgentReplay, PRIORITIZED: PrioritizedAgentReplay}
"""Replays by RLlib's names for ``replay_buffer_config["type"]``."""
