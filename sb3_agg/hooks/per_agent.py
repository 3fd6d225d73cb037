r"""An update that sees every agent's gradient. Axes: A agents, B samples of a minibatch, P parameters.

``evaluate_actions`` hands SB3 copies of the policy's outputs that know nothing of the parameters. What SB3's backward pass
leaves on them is the gradient of its loss with respect to the outputs; from there, agent by agent,

.. math:: g_a = A \sum_{n: a(n) = a} \frac{\partial L}{\partial o_n} \frac{\partial o_n}{\partial \theta}

is the gradient of its own mean loss, for every agent has the same part :math:`B/A` of the mean that SB3 minimises.

In SB3's own order the parts differ, and those who have none are idle for a step. A combiner then sees :math:`B/n_a` times
the sum in place of A times, the gradient of agent a's mean loss over its :math:`n_a` samples. For a rule that weighs, A
remains, as where nobody sees the agents' own gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_agg import Signals, Weighting
from rl_agg.exchange import Factored, ParameterServer
from rl_agg.optimizers import step_scale
from sb3_agg.hooks.base import DetachedUpdate, Outputs, SampleLosses
from sb3_agg.per_agent_gradients.base import LoopedWay, StackedWay, UnfitError, Way
from sb3_agg.per_agent_gradients.linear import LinearWay
from sb3_agg.rollouts.minibatches import Minibatches


class MatrixUpdate(DetachedUpdate):
    """Gradients that pass through a parameter server one by one.

    :param server: What makes one gradient of many.
    :param policy: SB3's actor-critic policy.
    :param max_grad_norm: What SB3 clips gradients to; here the merged one.
    :param weighting: The rule, if one weighs them.
    """

    def __init__(
        self,
        server: ParameterServer,
        policy: Any,
        max_grad_norm: float,
        weighting: Weighting | None,
        signals: Signals,
        minibatches: Minibatches,
        sample_losses: SampleLosses,
    ) -> None:
        super().__init__(weighting, signals, minibatches, sample_losses)
        self._num_sent = torch.zeros(len(minibatches.present), dtype=torch.long)
        self._server = server
        self._weighs = weighting is not None
        self._parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self._way = BestWay(policy, minibatches)
        self._max_grad_norm = max_grad_norm
        sizes = [parameter.numel() for parameter in self._parameters]
        self._gradient = torch.cat([parameter.detach().flatten() for parameter in self._parameters])  # of that type and place
        parts = torch.split(self._gradient, sizes)
        self._parts = [part.view_as(parameter) for parameter, part in zip(self._parameters, parts, strict=True)]
        self._present = torch.as_tensor(minibatches.present, device=self._parameters[0].device)

    def num_sent(self) -> NDArray[np.int64]:
        """Gradients that each agent sent ``[A]``, which a gate may hold back."""
        return self._num_sent.numpy()

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Copies of the policy's outputs, on which SB3's backward pass will end."""
        copies = self._detach(self._way.evaluate(evaluate_actions, *args, **kwargs))
        if self._needs_losses:
            self._note_losses(*copies)
        return copies

    def before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Merge the agents' gradients and put the outcome where the optimiser looks for it."""
        scale = step_scale(optimizer, self._parameters) if self._server.is_gated else None
        gradients, idle = self._gradients()
        merged = self._server.merge(gradients, self._signals, idle=idle, scale=scale)
        self._num_sent += merged.sends.cpu()
        if not bool(merged.present.all()):
            self._note_masked(~merged.present)
        if merged.weights is not None:
            self._weights.append(merged.weights)
        norm = merged.gradient.norm()
        self._skip = self._skip or not bool(norm.isfinite())
        clipping = (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
        torch.mul(merged.gradient, clipping, out=self._gradient)
        for parameter, part in zip(self._parameters, self._parts, strict=True):
            parameter.grad = part
        super().before_step(optimizer)

    def _gradients(self) -> tuple[Tensor | Factored, Tensor | None]:
        """Those of the agents ``[A, P]``, and who is idle ``[A]``, if anyone is."""
        gradients = self._way.gradients(*self._output_gradients())
        if self.minibatches.equal_parts and self.minibatches.num_present == len(self._present):
            return gradients, None
        rows = gradients if isinstance(gradients, Tensor) else gradients.matrix(by_parameter=False)
        if self.minibatches.equal_parts:
            matrix = rows.new_zeros(len(self._present), rows.shape[1])
            matrix[self._present] = rows
            return matrix, None
        samples = self.minibatches.samples_per_agent()
        idle = (samples == 0) & self._present
        if not self._weighs:
            rows *= (samples.sum() / (samples.clamp(min=1) * self.minibatches.num_present))[:, None]
        return rows, idle if bool(idle.any()) else None


class BestWay(Way):
    """The first of them that fits."""

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        super().__init__(policy, minibatches)
        self._others: list[type[Way]] = (
            [LinearWay, StackedWay, LoopedWay] if minibatches.equal_parts else [LinearWay, LoopedWay]
        )
        self._way = self._next()

    def _next(self) -> Way:
        while True:
            kind = self._others.pop(0)
            try:
                return kind(self._policy, self._minibatches)
            except UnfitError:
                continue

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate, and from then on in the same way."""
        while True:
            try:
                return self._way.evaluate(evaluate_actions, *args, **kwargs)
            except UnfitError as error:
                self._way = self._next()
                if isinstance(self._way, LoopedWay) and self._minibatches.equal_parts:
                    self._warn(error)

    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor | Factored:
        """As that way does."""
        return self._way.gradients(outputs, output_gradients)

    def _warn(self, error: UnfitError) -> None:
        warnings.warn(
            f"{type(self._policy).__name__} cannot be evaluated for all agents at once, so each gradient step takes one "
            f"backward pass per agent: {error}",
            UserWarning,
            stacklevel=2,
        )
