r"""An env runner that knows the errors of its transitions. Axes: T steps of a chunk, B of all chunks of a sample.

.. math:: \Delta_t = r_t + \gamma \max_b Q(s_{t+1}, b) - Q(s_t, a_t)

by the network that it received last, the one it acts with; what comes after a terminal step is 0. RLlib's learner connectors
make the module's inputs, as they do for the learner.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn.dqn_learner import QF_PREDS
from ray.rllib.connectors.common.add_observations_from_episodes_to_batch import AddObservationsFromEpisodesToBatch
from ray.rllib.connectors.learner.add_next_observations_from_episodes_to_train_batch import (
    AddNextObservationsFromEpisodesToTrainBatch,
)
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rl_agg.gates import TransitionGate
from rllib_agg.aggregation._compat import write_column
from rllib_agg.aggregation.agents import RETURN, agent_of
from rllib_agg.aggregation.masking import MaskCorruptAgents
from rllib_agg.replay.buffers import TD_ERROR

Floats = NDArray[np.float64]


class TransitionEnvRunner(SingleAgentEnvRunner):
    """Sends the transitions that a gate selects by their errors, and the errors if a replay begins with them."""

    config: Any
    module: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        gate = self.config.make_scheme().make_gate(self.config.num_agents)
        self._gate = gate if isinstance(gate, TransitionGate) else None
        self._connectors: Any = None
        self._unreported: dict[int, float] = {}
        self.usual: dict[int, float] = {}
        """The one number that each agent's gate remembers, of agents that have decided."""

    def sample(self, **kwargs: Any) -> list[Any]:
        """RLlib's episodes; in training, fragments of them with errors."""
        episodes: list[Any] = super().sample(**kwargs)
        if self.config.in_evaluation or not episodes:
            return episodes
        errors = self.td_errors(episodes)
        if self._gate is None:
            for episode, own in zip(episodes, errors, strict=True):
                write_column(episode, TD_ERROR, own)
            return episodes
        parts = (self._fragments(episode, own) for episode, own in zip(episodes, errors, strict=True))
        return list(itertools.chain.from_iterable(parts))

    @torch.no_grad()
    def td_errors(self, episodes: list[Any]) -> list[NDArray[np.float32]]:
        """Errors of each step ``[T]``, for each chunk of an episode; NaN or infinite where the data are corrupt."""
        batch = self._make_batch(episodes)
        before, after = (
            self.module.compute_q_values({Columns.OBS: batch[name]})[QF_PREDS] for name in (Columns.OBS, Columns.NEXT_OBS)
        )
        values = before.gather(-1, batch[Columns.ACTIONS].long().unsqueeze(-1)).squeeze(-1)
        following = (1.0 - batch[Columns.TERMINATEDS].float()) * after.max(-1).values
        errors = (batch[Columns.REWARDS] + self.config.gamma * following - values).float().cpu().numpy()
        return np.split(errors, np.cumsum([len(episode) for episode in episodes])[:-1])

    def _make_batch(self, episodes: list[Any]) -> dict[str, Any]:
        if self._connectors is None:
            pipeline = self._connectors = self.config.build_learner_connector(None, None, device=self._device)
            pipeline.remove(MaskCorruptAgents)
            pipeline.insert_after(AddObservationsFromEpisodesToBatch, AddNextObservationsFromEpisodesToTrainBatch())
        copies = [episode[:] for episode in episodes]  # RLlib's connectors rename episodes, and a user's may do more
        batch: dict[str, Any] = self._connectors(
            rl_module=self.module, batch={}, episodes=copies, explore=False, shared_data={}
        )
        return batch

    def _fragments(self, episode: Any, errors: NDArray[np.float32]) -> list[Any]:
        """Each run of consecutive steps that the gate selects, as an episode of its own: a replay then draws these, and no
        others. The agent's last return, which the gate does not withhold, comes with the first of them."""
        assert self._gate is not None
        agent = agent_of(episode)
        ended = float(episode.get_extra_model_outputs(RETURN, -1))
        if not np.isnan(ended):
            self._unreported[agent] = ended
        sends = np.zeros(len(errors), dtype=np.bool_)
        known = np.isfinite(errors)
        sends[known], self.usual[agent] = self._gate.decide_transitions(
            errors[known].astype(np.float64), self.usual.get(agent, 0.0)
        )
        edges = np.flatnonzero(np.diff(sends, prepend=False, append=False))  # where runs begin and end, in turn
        fragments = []
        for start, stop in edges.reshape(-1, 2).tolist():
            fragment = episode.slice(slice(start, stop), len_lookback_buffer=0)
            fragment.id_ = f"{episode.id_}_{fragment.t_started}"
            if self.config.initial_priorities == TD_ERRORS:
                write_column(fragment, TD_ERROR, errors[start:stop])
            returns = np.full(stop - start, np.nan, np.float32)
            returns[0] = self._unreported.pop(agent, np.nan)
            write_column(fragment, RETURN, returns)
            fragments.append(fragment)
        return fragments


TD_ERRORS = "td_error"
"""The choice of ``initial_priorities`` that a replay begins with errors."""
