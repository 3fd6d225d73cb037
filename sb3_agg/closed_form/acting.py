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
    :param find: Finds what evaluates its networks, or each agent's; called when the first action is asked for, as a callback
        may change the policy before. ``None``: the policy's own methods do.
    """

    def __init__(self, policy: Any, find: Callable[[], Evaluation | None]) -> None:
        self._policy, self._find = policy, find
        self._forward: Callable[..., tuple[Tensor, Tensor, Tensor]] = policy.forward
        self._predict_values: Callable[..., Tensor] = policy.predict_values
        self._found: Evaluation | None = None
        self._has_looked = False
        self._last_states: deque[tuple[Tensor, Tensor]] = deque()

    @property
    def _hooks(self) -> dict[str, Callable[..., Any]]:
        return {"forward": self.forward, "predict_values": self.predict_values}

    def __reduce__(self) -> Any:
        """A copy of the policy acts by its own methods, whose parameters are its own."""
        return type(self), (self._policy, _nothing)

    def note_step(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_]) -> None:
        """Evaluate the last states of episodes that a time limit cut off; SB3 then asks for their values one by one, in order.

        :param infos: A dictionaries.
        :param dones: ``[A]``.
        """
        self._last_states.clear()
        agents, evaluation = truncated_agents(infos, dones), self._found
        if not agents or evaluation is None:
            return
        last = np.stack([infos[agent]["terminal_observation"] for agent in agents])
        observations = torch.as_tensor(last, device=self._policy.device)
        rows = observations
        if not evaluation.memory.is_shared:
            rows = observations.new_zeros(len(evaluation.memory.values), *observations.shape[1:])
            rows[agents] = observations
        values = evaluation.values(rows)
        self._last_states.extend(zip(observations, values if rows is observations else values[agents], strict=True))

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Replace the policy's methods inside."""
        with temporarily(self._policy, **self._hooks):
            yield

    def _evaluates(self, observations: Tensor) -> Evaluation | None:
        """What evaluates these observations; ``None``: the policy itself."""
        if not self._has_looked or not (self._found is None or self._found.is_current()):
            hooks = {name: vars(self._policy).pop(name) for name in self._hooks}  # or they would be taken for somebody's own
            try:
                self._found, self._has_looked = self._find(), True
            finally:
                vars(self._policy).update(hooks)
        found = self._found
        if found is None or not (found.memory.is_shared or len(found.memory.values) == len(observations)):
            return None
        return found

    def forward(
        self, observations: Tensor, deterministic: bool = False, action_masks: NDArray[Any] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[A, ...]``, values ``[A, 1]`` and log-probabilities ``[A]``, as the policy's own ``forward``."""
        evaluation = self._evaluates(observations)
        if evaluation is None:
            own = {} if action_masks is None else {"action_masks": action_masks}
            return self._forward(observations, deterministic, **own)
        masks = None
        if action_masks is not None:
            masks = torch.as_tensor(action_masks, dtype=torch.bool, device=observations.device).view(len(observations), -1)
        actions, values, log_prob = evaluation.act(observations, masks, deterministic=deterministic)
        return actions.reshape(-1, *self._policy.action_space.shape), values, log_prob

    def predict_values(self, observations: Tensor) -> Tensor:
        """Values ``[A, 1]``, or ``[1, 1]`` of the next state that a time limit cut off."""
        if len(observations) == 1 and self._last_states and torch.equal(observations[0], self._last_states[0][0]):
            return self._last_states.popleft()[1][None]
        evaluation = self._evaluates(observations)
        if evaluation is None:
            return self._predict_values(observations)
        return evaluation.values(observations)


def _nothing() -> None:
    """What a copy of a policy is evaluated by instead of its own methods."""
