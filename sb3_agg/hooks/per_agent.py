r"""An update that sees every agent's gradient. Axes: A agents, B samples of a minibatch, P parameters.

``evaluate_actions`` gives SB3 copies of the policy's outputs without a graph to the parameters. SB3's backward pass leaves the
gradient of its loss with respect to the outputs on them. From there, agent by agent,

.. math:: g_a = A \sum_{n: a(n) = a} \frac{\partial L}{\partial o_n} \frac{\partial o_n}{\partial \theta}

is the gradient of its own mean loss, for every agent has the same part :math:`B/A` of the mean that SB3 minimises.

In SB3's own order the parts differ, and agents without samples are idle for a step. A combiner then sees :math:`B/n_a` times
the sum in place of A times, the gradient of agent a's mean loss over its :math:`n_a` samples. For a rule that weighs, A
remains, as in :mod:`sb3_agg.hooks.weighted`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl_agg import Weighting
from rl_agg.exchange import Factored
from rl_agg.optimizers import step_scale
from rl_agg.per_agent_gradients import trained_parameters, unflatten
from sb3_agg.hooks.base import DetachedUpdate
from sb3_agg.per_agent_gradients.select import FastestBackend
from sb3_agg.rollouts.losses import Outputs


class PerAgentUpdate(DetachedUpdate):
    """Gradients that are exchanged agent by agent."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._weighs = isinstance(self.exchange.scheme.rule, Weighting)
        self._backend = FastestBackend(self._policy, self.minibatches)
        self._parameters = trained_parameters(self._policy)
        self._gradient = torch.cat([parameter.detach().flatten() for parameter in self._parameters])  # of that type and place
        self._parts = unflatten(self._gradient, self._parameters)

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Copies of the policy's outputs, on which SB3's backward pass will end."""
        copies = self._detach(self._backend.evaluate(evaluate_actions, *args, **kwargs))
        if self._needs_losses:
            self._add_losses(*copies)
        return copies

    def prepare_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Merge the agents' gradients and put the outcome where the optimiser reads it; nothing where none is due."""
        scale = step_scale(optimizer, self._parameters) if self.exchange.scales else None
        gradients, idle = self._gradients()
        merged = self.exchange.step(gradients, self._signals, idle=idle, scale=scale)
        if merged is None:
            optimizer.zero_grad(set_to_none=True)  # an optimiser leaves parameters without gradient unchanged
            return
        if not bool(merged.present.all()):
            self._mask(~merged.present)
        if merged.weights is not None:
            self._note_weights(merged.weights)
        norm = merged.vector.norm()
        self._skip = self._skip or not bool(norm.isfinite())
        torch.mul(merged.vector, self._clipping(norm), out=self._gradient)
        for parameter, part in zip(self._parameters, self._parts, strict=True):
            parameter.grad = part

    def _gradients(self) -> tuple[Tensor | Factored, Tensor | None]:
        """The agents' gradients ``[A, P]``, and which agents are idle ``[A]``, if any."""
        gradients = self._backend.gradients(*self._output_gradients())
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
