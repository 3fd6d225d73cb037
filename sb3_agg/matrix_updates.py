r"""An update that sees every agent's gradient. Axes: A agents, B samples of a minibatch, P parameters.

``evaluate_actions`` hands SB3 copies of the policy's outputs that know nothing of the parameters. What SB3's backward pass
leaves on them is the gradient of its loss with respect to the outputs; from there, agent by agent,

.. math:: g_a = A \sum_{n: a(n) = a} \frac{\partial L}{\partial o_n} \frac{\partial o_n}{\partial \theta}

is the gradient of its own mean loss, for every agent has the same part :math:`B/A` of the mean that SB3 minimises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_agg import Signals, Weighting
from rl_agg.optimizers import step_scale
from rl_agg.parameter_server import ParameterServer
from sb3_agg.minibatches import Minibatches
from sb3_agg.stacked_policy import evaluate_stacked, flatten_agents
from sb3_agg.updates import Outputs, SampleLosses, Update, beside


class MatrixUpdate(Update):
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
        self._policy = policy
        self._parameters = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
        self._max_grad_norm = max_grad_norm
        self._outputs: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._stacked: list[Tensor] | None = None

    def num_sent(self) -> NDArray[np.int64]:
        """Gradients that each agent sent ``[A]``, which a gate may hold back."""
        return self._num_sent.numpy()

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Copies of the policy's outputs, on which SB3's backward pass will end."""
        if self.minibatches.equal_parts:
            # One tensor a parameter, of which each agent sees a view of its own: its gradient is the matrix
            num_agents = self.minibatches.num_present
            stacked = {
                name: parameter.detach().expand(num_agents, *parameter.shape).requires_grad_()
                for name, parameter in self._parameters.items()
            }
            self._stacked = list(stacked.values())
            outputs = flatten_agents(evaluate_stacked(self._policy, evaluate_actions, stacked, *args, **kwargs))
        else:
            self._stacked = None
            outputs = list(evaluate_actions(*args, **kwargs))
        self._outputs = [output for output in outputs if output is not None]
        copies = [None if output is None else output.detach().requires_grad_() for output in outputs]
        self._copies = [copy for copy in copies if copy is not None]
        if self._needs_losses:
            self._note_losses(*copies)
        values, log_prob, entropy = copies
        assert values is not None
        assert log_prob is not None
        return values, log_prob, entropy

    def before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Merge the agents' gradients and put the outcome where the optimiser looks for it."""
        signals = self._signals
        if not self.minibatches.equal_parts:
            sampled = self.minibatches.samples_per_agent() > 0
            signals = dataclasses.replace(signals, present=~signals.masked() & sampled)
        parameters = list(self._parameters.values())
        scale = step_scale(optimizer, parameters) if self._server.is_gated else None
        merged = self._server.merge(self._gradients(), signals, scale=scale)
        self._num_sent += merged.sends.cpu()
        self._note_masked(~merged.present)
        if merged.weights is not None:
            self._weights.append(merged.weights)
        parts = torch.split(merged.gradient, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(parameters, self._max_grad_norm)
        super().before_step(optimizer)

    def _gradients(self) -> Tensor:
        """``[A, P]``, zero for agents without samples."""
        pairs = [
            (output, copy.grad) for output, copy in zip(self._outputs, self._copies, strict=True) if copy.grad is not None
        ]
        outputs, gradients = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        parameters = list(self._parameters.values())
        num_parameters = sum(parameter.numel() for parameter in parameters)
        matrix = torch.zeros(len(self.minibatches.present), num_parameters, device=parameters[0].device)
        if self._stacked is not None:
            rows = torch.autograd.grad(outputs, self._stacked, gradients, allow_unused=True)
            matrix[self._present()] = _flat(rows, self._stacked)
        else:
            for agent in torch.unique(self.minibatches.agents).tolist():
                others = self.minibatches.agents != agent
                parts = [gradient.masked_fill(beside(gradient, others), 0.0) for gradient in gradients]
                row = torch.autograd.grad(outputs, parameters, parts, allow_unused=True, retain_graph=True)
                matrix[agent] = _flat([part if part is None else part[None] for part in row], [p[None] for p in parameters])
        return matrix * self.minibatches.num_present

    def _present(self) -> Tensor:
        return torch.as_tensor(self.minibatches.present, device=self._copies[0].device)


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """``[A, ...]`` each to ``[A, P]``."""
    rows = [
        (torch.zeros_like(copies) if gradient is None else gradient).reshape(len(copies), -1)
        for gradient, copies in zip(gradients, parameters, strict=True)
    ]
    return torch.cat(rows, dim=1)
