r"""An update in which each agent steps with parameters of its own. Axes: A agents, P parameters.

With :math:`g_a` the gradient of agent a's mean loss at its own parameters :math:`\theta_a` over its own samples, it steps with

======================  ==============================================================================================
``parameters``          :math:`g_a + \mu (\theta_a - \theta)`, with :math:`\theta` the parameters merged last
``gradients_with_own``  :math:`g_a + \bar g`, with :math:`\bar g` the sum or mean of all agents' gradients
======================  ==============================================================================================

clipped to ``max_grad_norm`` by its own norm. Parameters are merged when the update is over, if that is due.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rl_agg.payloads import Parameters
from sb3_agg.hooks.base import DetachedUpdate
from sb3_agg.local_models.models import LocalModels
from sb3_agg.local_models.stacked_policy import Named, StackedPolicy
from sb3_agg.rollouts.losses import Outputs


class LocalUpdate(DetachedUpdate):
    """Steps of A agents at once, by one forward and one backward pass.

    :param models: Parameters of the agents.
    """

    def __init__(self, *args: Any, policy: Any, models: LocalModels) -> None:
        super().__init__(*args, policy=policy)
        self._models = models
        self._stacked: Named = {}
        self._rows_memory: tuple[Tensor, Tensor] | None = None
        self._rows = None if self.minibatches.present.all() else self._present.nonzero()[:, 0]
        payload = self.exchange.scheme.payload
        self._merges_parameters = isinstance(payload, Parameters)
        self._mu = payload.mu if isinstance(payload, Parameters) else 0.0
        epochs = payload.local_epochs if isinstance(payload, Parameters) else None
        self._epochs = None if epochs is None else torch.as_tensor(epochs, device=self._present.device)

    @cached_property
    def _stacked_policy(self) -> StackedPolicy:
        return self._models.stacked_policy(self.minibatches)

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Copies of the outputs of each agent's own policy, on which SB3's backward pass will end."""
        self._stacked = self._models.stacked(self._rows)
        copies = self._detach(self._stacked_policy(evaluate_actions, self._stacked, *args, **kwargs))
        if self._needs_losses:
            self._add_losses(*copies)
        return copies

    def look(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Evaluate the minibatch by each agent's own policy, without a gradient."""
        self.minibatches.check_rows(*args, **kwargs)
        return tuple(self._stacked_policy(evaluate_actions, self._models.stacked(self._rows), *args, **kwargs))

    def evaluation(self, form: Any) -> Any:
        """The agents' own networks; those of the agents that are present."""
        copies, memory = self._models.copies, (self._models.copies, self._models.optimizer.gradients)
        if self._rows is not None:
            if self._rows_memory is None:
                self._rows_memory = (copies[self._rows], copies.new_zeros(len(self._rows), copies.shape[1]))
            memory = self._rows_memory
            torch.index_select(copies, 0, self._rows, out=memory[0])
        self._evaluation = form.stacked(*memory)
        return self._evaluation

    def _step(self, form: Any, gradients: Any) -> None:
        """Step with the agents' own optimiser."""
        self._evaluation.backward(*self._of_agents_means(gradients))
        self._step_own(self._of_all_agents(self._evaluation.memory.gradients), self._policy.optimizer)

    @torch.no_grad()
    def prepare_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step with the agents' own optimiser; SB3's has no gradients and then changes nothing."""
        stepping = self._step_own(self._gradients(), optimizer)
        self._models.keep_buffers(self._stacked, self._rows, stepping)

    def _step_own(self, gradients: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """Take the agents' steps.

        :param gradients: Of each agent's mean loss ``[A, P]``, overwritten; zero for those that are not present.
        :param optimizer: SB3's, whose settings hold.
        :return: Who steps ``[A]``, bool.
        """
        sent = self._present
        if not self._merges_parameters:
            merged = self.exchange.merge(gradients, self._signals)
            sent = ~merged.masked  # agents that did not send step with the answer
            gradients += merged.vector
        elif self._mu:
            gradients.add_(self._models.copies - self._models.last_merge, alpha=self._mu)
        norms = gradients.norm(dim=1)
        finite: Tensor = sent & norms.isfinite()
        if not bool(finite.all()):
            self._mask(~finite)
        gradients *= self._clipping(norms)[:, None]
        stepping = finite if self._epochs is None else finite & (self._epochs >= self.minibatches.epoch)
        self._models.optimizer.step(optimizer.param_groups[0], stepping)
        return stepping

    def _gradients(self) -> Tensor:
        """Gradients of each agent's mean loss ``[A, P]``, zero for those that are not present."""
        parameters = [tensor for tensor in self._stacked.values() if tensor.requires_grad]
        outputs, output_gradients = self._output_gradients()
        parts = torch.autograd.grad(outputs, parameters, output_gradients, allow_unused=True, materialize_grads=True)
        matrix = self._models.optimizer.gradients
        rows = matrix if self._rows is None else torch.empty(len(self._rows), matrix.shape[1], device=matrix.device)
        for part, flat in zip(parts, torch.split(rows, [part[0].numel() for part in parts], dim=1), strict=True):
            if part.data_ptr() != flat.data_ptr():  # not computed in place
                flat.view_as(part).copy_(part)
        return self._of_all_agents(rows)

    def _of_all_agents(self, rows: Tensor) -> Tensor:
        """Gradients of the agents that are present, among zeros for the others."""
        if self._rows is None:
            return rows
        matrix = self._models.optimizer.gradients
        matrix.zero_()
        matrix[self._rows] = rows
        return matrix

    def finish(self) -> None:
        """Give the policy the average, and merge if it is due. Losses are the means over this update."""
        losses = self._losses[: self.num_steps]  # target_kl stops at a minibatch of which nobody learns
        if losses:
            self._signals = dataclasses.replace(self._signals, losses=torch.stack(losses).nanmean(0))
        elif self._needs_losses:
            unknown = torch.full_like(self._present, torch.nan, dtype=torch.float32)
            self._signals = dataclasses.replace(self._signals, losses=unknown)
        samples = self.minibatches.buffer.buffer_size * self._present
        merged = self._models.end_update(samples, self.exchange if self._merges_parameters else None, self._signals)
        if merged is not None and merged.weights is not None and bool(merged.present.any()):
            self._note_weights(merged.weights, merged.present)
