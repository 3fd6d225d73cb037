r"""An update in which each agent steps with parameters of its own. Axes: A agents, P parameters.

With :math:`g_a` the gradient of agent a's mean loss at its own parameters :math:`\theta_a` over its own samples, it steps with

=============  ==============================================================================
``fedavg``     :math:`g_a`
``fedprox``    :math:`g_a + \mu (\theta_a - \theta)`, :math:`\theta` the parameters last merged
``actor_sum``  :math:`g_a + \sum_b g_b`
``actor_mean`` :math:`g_a + \frac{1}{A} \sum_b g_b`
=============  ==============================================================================

clipped to ``max_grad_norm`` by its own norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_agg import Ledger, Signals
from rl_agg.payloads import ActorMean, ActorSum, FedAvg, FedProx, LocalScheme
from sb3_agg.hooks.base import DetachedUpdate, Outputs
from sb3_agg.local_models.models import LocalModels
from sb3_agg.local_models.stacked_policy import Named, StackedPolicy
from sb3_agg.rollouts.minibatches import Minibatches


class LocalUpdate(DetachedUpdate):
    """Steps of A agents at once, by one forward and one backward pass.

    :param scheme: What a step is made of.
    :param models: Parameters of the agents.
    :param policy: SB3's actor-critic policy.
    :param max_grad_norm: What each agent's gradient is clipped to.
    """

    def __init__(
        self,
        scheme: LocalScheme,
        models: LocalModels,
        policy: Any,
        max_grad_norm: float,
        signals: Signals,
        minibatches: Minibatches,
    ) -> None:
        super().__init__(None, signals, minibatches)
        self._scheme = scheme
        self._models = models
        self._stacked_policy = StackedPolicy(policy, models.names)
        self._max_grad_norm = max_grad_norm
        self._stacked: Named = {}
        self._present = torch.as_tensor(minibatches.present, device=models.copies.device)
        self._rows = None if minibatches.present.all() else self._present.nonzero()[:, 0]
        epochs = scheme.local_epochs if isinstance(scheme, FedAvg) else None
        self._epochs = None if epochs is None else torch.as_tensor(epochs, device=self._present.device)
        self._num_sent = torch.zeros_like(self._present, dtype=torch.long)

    def num_sent(self) -> NDArray[np.int64]:
        """Finite gradients of each agent ``[A]``."""
        return self._num_sent.cpu().numpy()

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Copies of what each agent's policy makes of its own samples, on which SB3's backward pass will end."""
        self._stacked = self._models.stacked(self._rows)
        outputs = self._stacked_policy(evaluate_actions, self._stacked, *args, **kwargs)
        return self._detach(outputs)

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Step with the agents' own optimiser; SB3's, which has no gradients, then changes nothing."""
        gradients = self._gradients()
        sent = self._mix(gradients)
        norms = gradients.norm(dim=1)
        finite = sent & norms.isfinite()
        if not bool(finite.all()):
            self._note_masked(~finite)
        self._num_sent += finite
        gradients *= (self._max_grad_norm / (norms + 1e-6)).clamp(max=1.0)[:, None]  # as torch's clip_grad_norm_
        stepping = finite if self._epochs is None else finite & (self._epochs >= self.minibatches.epoch)
        self._models.optimizer.step(optimizer.param_groups[0]["lr"], stepping)
        self._models.keep_buffers(self._stacked, self._rows, stepping)
        super().before_step(optimizer)

    def _gradients(self) -> Tensor:
        """Of each agent's mean loss ``[A, P]``, zero for those that are not present."""
        parameters = [tensor for tensor in self._stacked.values() if tensor.requires_grad]
        outputs, output_gradients = self._output_gradients()
        parts = torch.autograd.grad(outputs, parameters, output_gradients, allow_unused=True, materialize_grads=True)
        matrix = self._models.optimizer.gradients
        rows = matrix if self._rows is None else torch.empty(len(self._rows), matrix.shape[1], device=matrix.device)
        for part, flat in zip(parts, torch.split(rows, [part[0].numel() for part in parts], dim=1), strict=True):
            if part.data_ptr() != flat.data_ptr():  # it is not there yet
                flat.view_as(part).copy_(part)
        if self._rows is not None:
            matrix.zero_()
            matrix[self._rows] = rows
        return matrix

    def _mix(self, gradients: Tensor) -> Tensor:
        """Make of the agents' gradients what they step with, in place.

        :return: Whose gradient was finite ``[A]``, bool.
        """
        scheme = self._scheme
        if isinstance(scheme, ActorSum):
            total, sent = gradients.sum(0), self._present
            if not bool(total.sum().isfinite()):
                sent = sent & gradients.sum(1).isfinite()
                total = gradients[sent].sum(0)
            if isinstance(scheme, ActorMean):
                total /= sent.sum().clamp(min=1)
            gradients += total
            return sent
        if isinstance(scheme, FedProx):
            gradients.add_(self._models.copies - self._models.last_merge, alpha=scheme.mu)
        return self._present

    def finish(self, ledger: Ledger) -> None:
        """Merge if it is time, and count what was sent."""
        samples = self.minibatches.buffer.buffer_size * self._present
        merged = self._models.end_update(samples)
        if isinstance(self._scheme, ActorSum):
            ledger.upload(self.num_sent(), gradients=self.num_parameters)
            ledger.download(self.num_sent(), gradients=self.num_parameters)
        elif merged is not None:
            ledger.upload(merged.cpu().numpy(), parameters=self._models.size)
            ledger.download(np.ones(len(merged), dtype=np.int64), parameters=self._models.size)
