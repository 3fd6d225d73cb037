"""Gradients of any policy and any minibatch. Axes: A agents, P parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rl_agg.per_agent_gradients import gradients_by_agent
from sb3_agg.per_agent_gradients.base import GradientBackend
from sb3_agg.rollouts.losses import Outputs


class LoopBackend(GradientBackend):
    """One evaluation, and a backward pass for each agent."""

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate unchanged."""
        return list(evaluate_actions(*args, **kwargs))

    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor:
        """One backward pass for each agent, the others' gradients set to zero."""
        present, agents = self._minibatches.present, self._minibatches.agents
        rows = gradients_by_agent(outputs, output_gradients, agents, len(present), self._policy)
        return rows[present] if self._minibatches.equal_parts else rows
