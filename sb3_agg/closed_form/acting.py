"""Rollouts without a graph. Axis A: agents, one sub-environment each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sb3_agg.closed_form.evaluation import Evaluation
from sb3_agg.patching import temporarily
from sb3_agg.rollouts.truncation import truncated_agents


class ClosedFormActing:
    """Replace the policy's methods while SB3 collects.

    :param policy: SB3's actor-critic policy.
    :param evaluation: Of its networks, or of each agent's.
    """

    def __init__(self, policy: Any, evaluation: Evaluation) -> None:
        self._policy, self._evaluation = policy, evaluation
        self._num_agents = None if evaluation.memory.is_shared else len(evaluation.memory.values)
        self._forward: Callable[..., tuple[Tensor, Tensor, Tensor]] = policy.forward
        self._predict_values: Callable[..., Tensor] = policy.predict_values
        self._last_values: deque[Tensor] = deque()

    def note_step(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_]) -> None:
        """Evaluate the last states of episodes that a time limit cut off; SB3 then asks for their values one by one, in order.

        :param infos: A dictionaries.
        :param dones: ``[A]``.
        """
        agents = truncated_agents(infos, dones)
        if not agents:
            self._last_values.clear()
            return
        last = np.stack([infos[agent]["terminal_observation"] for agent in agents])
        observations = torch.as_tensor(last, device=self._policy.device)
        if self._num_agents is not None:
            rows = observations.new_zeros(self._num_agents, *observations.shape[1:])
            rows[agents] = observations
            values = self._evaluation.values(rows)[agents]
        else:
            values = self._evaluation.values(observations)
        self._last_values = deque(values[:, None])

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Replace the policy's methods inside."""
        with temporarily(self._policy, forward=self.forward, predict_values=self.predict_values):
            yield

    def forward(
        self, observations: Tensor, deterministic: bool = False, action_masks: NDArray[Any] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[A, ...]``, values ``[A, 1]`` and log-probabilities ``[A]``, as the policy's own ``forward``."""
        if self._num_agents not in (None, len(observations)):
            own = {} if action_masks is None else {"action_masks": action_masks}
            return self._forward(observations, deterministic, **own)
        masks = None
        if action_masks is not None:
            masks = torch.as_tensor(action_masks, dtype=torch.bool, device=observations.device).view(len(observations), -1)
        actions, values, log_prob = self._evaluation.act(observations, masks, deterministic=deterministic)
        return actions.reshape(-1, *self._policy.action_space.shape), values, log_prob

    def predict_values(self, observations: Tensor) -> Tensor:
        """Values ``[A, 1]``, or ``[1, 1]`` of the next state that a time limit cut off."""
        if len(observations) == 1 and self._last_values:
            return self._last_values.popleft()
        if self._num_agents not in (None, len(observations)):
            return self._predict_values(observations)
        return self._evaluation.values(observations)
