"""Gradients of policies that ``torch.func.vmap`` can evaluate. Axes: A agents, P parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl_agg.per_agent_gradients import flatten_gradients
from sb3_agg.local_models.stacked_policy import StackedPolicy
from sb3_agg.per_agent_gradients.base import GradientBackend, UnsupportedPolicyError, view_per_agent
from sb3_agg.rollouts.losses import Outputs
from sb3_agg.rollouts.minibatches import Minibatches


class VmapBackend(GradientBackend):
    """One evaluation in which each agent has its own view of the parameters, and one backward pass to the views."""

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        super().__init__(policy, minibatches)
        if not minibatches.equal_parts:
            raise UnsupportedPolicyError("agents have unequally many samples")
        self._views = {name: view_per_agent(item, minibatches.num_present) for name, item in self._parameters.items()}
        self._stacked_policy = StackedPolicy(policy, self._parameters)

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate all agents at once."""
        try:
            return self._stacked_policy(evaluate_actions, self._views, *args, **kwargs)
        except RuntimeError as error:
            raise UnsupportedPolicyError(str(error)) from error

    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor:
        """One backward pass."""
        gradients = torch.autograd.grad(outputs, list(self._views.values()), output_gradients, allow_unused=True)
        return flatten_gradients(gradients, list(self._parameters.values()), self._minibatches.num_present)
