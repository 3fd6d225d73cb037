"""RecurrentPPO with aggregation. Axes: A agents, T steps, B samples of a minibatch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from torch import Tensor

from sb3_agg.mixin import AggregationMixin
from sb3_agg.rollouts.minibatches import Minibatches, cut


class SequenceMinibatches(Minibatches):
    """Minibatches of one contiguous stretch of every agent's rollout, each begun from its stored hidden state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.equal_parts = False  # padding follows the episodes

    def _get_stratified(self, batch_size: int | None) -> Iterator[Any]:
        num_agents, num_steps = self.buffer.n_envs, self.buffer.buffer_size
        self._flatten()
        cuts = cut(num_steps, num_agents, batch_size)
        first = np.flatnonzero(self.present)[:, None] * num_steps
        # As SB3 does: shuffle by where the rollout is cut, so that minibatches differ between epochs. A cut stops the gradient
        # through time, so a rollout that fits into one minibatch stays whole
        shift = np.random.randint(num_steps) if len(cuts) else 0
        order = first + (np.arange(num_steps) + shift) % num_steps
        sequence_starts = np.zeros((num_agents, num_steps), dtype=np.float32)
        sequence_starts[:, 0] = 1.0
        for indices in np.split(order, cuts, axis=1):
            starts = sequence_starts.flatten()
            starts[indices[:, 0]] = 1.0
            self.samples = self._get_samples(indices.ravel(), starts[:, None])  # type: ignore[arg-type]
            self.agents = self._label(indices.ravel() // num_steps)
            yield self.samples

    def _label(self, agents: NDArray[np.int64]) -> Tensor:
        padded: Tensor = self.buffer.pad_and_flatten(agents)  # type: ignore[attr-defined]
        return padded


class AggRecurrentPPO(AggregationMixin, RecurrentPPO):
    """PPO with an LSTM policy and weighed gradients; see :class:`~sb3_agg.mixin.AggregationMixin`.

    Agents with parameters of their own are evaluated one after the other.
    """

    minibatches_class = SequenceMinibatches
