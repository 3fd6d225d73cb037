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

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rl_agg import Weighting
from rl_agg.exchange import Factored
from rl_agg.optimizers import step_scale
from rl_agg.per_agent_gradients import trained_parameters, unflatten
from sb3_agg.hooks.base import DetachedUpdate, drop_gradients
from sb3_agg.per_agent_gradients.base import GradientBackend
from sb3_agg.per_agent_gradients.select import FastestBackend
from sb3_agg.rollouts.losses import Outputs


class PerAgentUpdate(DetachedUpdate):
    """Gradients that are exchanged agent by agent."""

    def __init__(self, *args: Any, policy: Any) -> None:
        super().__init__(*args, policy=policy)
        self._weighs = isinstance(self.exchange.scheme.rule, Weighting)
        self._parameters = trained_parameters(policy)

    @cached_property
    def _backend(self) -> GradientBackend:
        return FastestBackend(self._policy, self.minibatches)

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Copies of the policy's outputs, on which SB3's backward pass will end."""
        copies = self._detach(self._backend.evaluate(evaluate_actions, *args, **kwargs))
        if self._needs_losses:
            self._add_losses(*copies)
        return copies

    def prepare_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Merge the agents' gradients and put the outcome where the optimiser reads it; nothing where none is due."""
        vector = self._merged(self._backend.gradients(*self._output_gradients()), optimizer, self._parameters)
        if vector is None:
            drop_gradients(optimizer)
            return
        norm = vector.norm()
        self._skip = self._skip or not bool(norm.isfinite())
        vector = vector * self._clipping(norm)
        for parameter, part in zip(self._parameters, unflatten(vector, self._parameters), strict=True):
            parameter.grad = part

    def _step(self, form: Any, gradients: Any) -> None:
        """Merge the agents' gradients and step, where a step is due."""
        agents = None if self.minibatches.equal_parts else self.minibatches.agents
        num_agents = len(self._present) if agents is not None else self.minibatches.num_present
        factors = form.evaluation.factors(self._of_agents_means(gradients), agents, num_agents)
        vector = self._merged(factors, form.optimizer.own, [form.optimizer.leaf])
        if vector is None:
            return
        norm = vector.norm().item()
        self._skip = self._skip or not math.isfinite(norm)
        with self.at_learner(form.flat.parameters):
            if not self._skip:
                form.flat.gradients.copy_(vector)
                form.step(norm, self._max_grad_norm)

    def _merged(
        self, gradients: Tensor | Factored, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
    ) -> Tensor | None:
        """The merged gradient ``[P]``; ``None`` where no exchange is due.

        :param gradients: The agents'.
        :param optimizer: Whose moments may tell a gate what a gradient will do.
        :param parameters: Of the optimiser.
        """
        scale = step_scale(optimizer, parameters) if self.exchange.scales else None
        rows, idle = self._of_all_agents(gradients)
        merged = self.exchange.step(rows, self._signals, idle=idle, scale=scale, zeros=self._weighs)
        self._answers = merged is not None
        if merged is None:
            return None
        if bool(merged.masked.any()):
            self._mask(merged.masked)
        self._skip = self._skip or not bool(merged.present.any())
        if merged.weights is not None:
            self._note_weights(merged.weights, merged.present)
        return merged.vector

    def _of_all_agents(self, gradients: Tensor | Factored) -> tuple[Tensor | Factored, Tensor | None]:
        """The agents' gradients ``[A, P]``, and which agents are idle ``[A]``, if any."""
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
