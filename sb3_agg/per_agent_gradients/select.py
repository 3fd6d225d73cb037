"""The fastest backend that supports a policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sb3_agg.per_agent_gradients.base import GradientBackend, UnsupportedPolicyError
from sb3_agg.per_agent_gradients.loop import LoopBackend
from sb3_agg.per_agent_gradients.vmap import VmapBackend
from sb3_agg.rollouts.losses import Outputs
from sb3_agg.rollouts.minibatches import Minibatches

BACKENDS: tuple[type[GradientBackend], ...] = (VmapBackend, LoopBackend)
"""From the fastest to the most general, which supports everything."""


class FastestBackend(GradientBackend):
    """The first of :data:`BACKENDS` that supports the policy and its minibatches."""

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        super().__init__(policy, minibatches)
        self._remaining = iter(BACKENDS)
        self._backend = self._next()

    def _next(self) -> GradientBackend:
        for kind in self._remaining:
            try:
                return kind(self._policy, self._minibatches)
            except UnsupportedPolicyError:
                continue
        raise AssertionError("LoopBackend supports every policy")

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate, by a more general backend from now on if this one turns out not to support the policy."""
        while True:
            try:
                return self._backend.evaluate(evaluate_actions, *args, **kwargs)
            except UnsupportedPolicyError as error:
                self._backend = self._next()
                if isinstance(self._backend, LoopBackend) and self._minibatches.equal_parts:
                    warnings.warn(
                        f"{type(self._policy).__name__} cannot be evaluated for all agents at once, so each gradient step "
                        f"takes one backward pass per agent: {error}",
                        UserWarning,
                        stacklevel=2,
                    )

    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor:
        """As the backend that evaluated."""
        return self._backend.gradients(outputs, output_gradients)
