r"""A learner with parameters of its own, which are merged between updates. Axes: L learners, P numbers that each sends.

Between two merges each learner steps with the gradient of its own samples alone. At a merge every learner gathers the
parameters of all and runs the same exchange on them, so that all get the same result to the bit:

.. math:: \theta = \mathrm{merge}(\theta_1, \dots, \theta_L), \quad \text{in FedAvg } \theta = \sum_l n_l \theta_l / \sum_m n_m

with :math:`n_l` the samples that learner l has trained on since the last merge. Env runners and evaluation get what was merged
last.

Source: McMahan et al. (2017), algorithm 1; Li et al. (2020), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from rl_agg import Exchange, Signals
from rl_agg.exchange import Merged
from rl_agg.optimizers import forget_moments, moments_of
from rl_agg.payloads import Parameters, merge
from rl_agg.per_agent_gradients import write
from rllib_agg.aggregation.parameter_sharing import SharedTensors


class LocalClient:
    """One learner's part in an exchange of parameters, for one module.

    Buffers that are numbers, and moments with ``moments="merge"``, are averaged by the weights of the parameters, or evenly
    where a combiner has none; no codec encodes them.

    :param exchange: Between L agents, with parameters as payload.
    :param module: Not wrapped in DDP, which would average gradients over learners.
    :raises ValueError: if the module lacks a layer that is to be merged.
    """

    def __init__(self, exchange: Exchange, module: nn.Module) -> None:
        payload = exchange.scheme.payload
        assert isinstance(payload, Parameters)
        self.payload = payload
        self._exchange = exchange
        everything, shared = SharedTensors.of(module, Parameters()), SharedTensors.of(module, payload)
        self._own: list[Tensor] = list(everything.named.values())
        self._parameters: list[Tensor] = list(shared.parameters.values())
        self._buffers: list[Tensor] = list(shared.buffers.values())
        self._last_merge = _copies([*self._parameters, *self._buffers])
        self._is_merged = True
        self._num_samples = self._loss_sum = self._loss_count = 0.0
        self.divergence = 0.0
        """Distance of this learner's parameters from the merged ones, when they were merged last."""

    @property
    def num_epochs(self) -> int | None:
        """Epochs of this learner in an update; ``None``: those of the update."""
        epochs = self.payload.local_epochs
        return None if epochs is None else int(epochs[distributed.get_rank()])

    def begin_update(self, num_samples: float) -> None:
        """Called before the first step of an update on so many samples of this learner."""
        if self._is_merged:
            self._last_merge = _copies([*self._parameters, *self._buffers])  # whoever restores weights writes to the module
        self._is_merged = False
        self._num_samples += num_samples

    def proximal_term(self) -> Tensor | None:
        r""":math:`\frac{\mu}{2} \lVert \theta_l - \theta \rVert^2`, differentiable; ``None`` where :math:`\mu` is 0."""
        if not self.payload.mu:
            return None
        pairs = zip(self._parameters, self._last_merge, strict=False)  # buffers come last
        return 0.5 * self.payload.mu * torch.stack([(own - merged).square().sum() for own, merged in pairs]).sum()

    @torch.no_grad()
    def end_update(
        self, loss_sum: Tensor, loss_count: Tensor, own_return: float, optimizers: Sequence[torch.optim.Optimizer]
    ) -> Merged | None:
        """Merge, if the schedule asks for it; all learners must call this together.

        :param loss_sum: Sum of this learner's losses in this update, over all minibatches.
        :param loss_count: How many.
        :param own_return: Mean return of this learner's agents; NaN if none is known.
        :param optimizers: Those of the module's parameters.
        :return: What was merged; ``None`` if nothing was.
        """
        self._loss_sum, self._loss_count = self._loss_sum + float(loss_sum), self._loss_count + float(loss_count)
        if not self._exchange.due():
            return None
        loss = self._loss_sum / self._loss_count if self._loss_count else torch.nan
        reported = self._gather(torch.tensor([own_return, loss, self._num_samples], dtype=torch.float64))
        returns, losses, num_samples = reported.unbind(1)
        present = num_samples > 0
        signals = Signals(returns=returns, losses=losses, num_samples=num_samples, present=present)
        self._num_samples = self._loss_sum = self._loss_count = 0.0
        if not bool(present.any()):
            return None
        moments = moments_of(optimizers, self._parameters) if self.payload.moments == "merge" else []
        uncompressed = [*self._buffers, *moments]
        merged = self._exchange.merge(
            self._gather(_flat(self._parameters)),
            signals,
            reference=_flat(self._last_merge[: len(self._parameters)]),
            extra=sum(tensor.numel() for tensor in uncompressed),
        )
        weights = merged.present.double() if merged.weights is None else merged.weights
        if not bool(weights.any()):  # no agent has sent its parameters: there is nothing to go by
            return None
        before = _flat(self._parameters)
        write(merged.vector, self._parameters)
        sent = weights * merged.sends.to(weights)
        if uncompressed and bool(sent.any()):  # the others' did not come with a message
            write(merge([self._gather(_flat(uncompressed))], sent)[0], uncompressed)
        if self.payload.moments == "reset":
            forget_moments(optimizers, self._parameters)
        self.divergence = float((_flat(self._parameters) - before).norm())
        self._is_merged = True
        return merged

    def _gather(self, own: Tensor) -> Tensor:
        """``[N]`` of each learner as ``[L, N]``, in float64: parameters that all share then stay as they are when averaged."""
        row = own.to(self._own[0].device)
        rows = row.new_empty(distributed.get_world_size(), len(row))
        distributed.all_gather(list(rows.unbind()), row)
        return rows

    # Checkpoints ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def showing_last_merge(self) -> Iterator[None]:
        """Let the module hold what was merged last, between two merges."""
        if self._is_merged:
            yield
            return
        shared = [*self._parameters, *self._buffers]
        own = _copies(shared)
        _put(shared, self._last_merge)
        try:
            yield
        finally:
            _put(shared, own)

    def forget(self) -> None:
        """Take the module's parameters, which are about to be replaced, for those merged last."""
        self._is_merged = True
        self._num_samples = self._loss_sum = self._loss_count = 0.0

    def get_state(self) -> dict[str, Any]:
        """What this learner has for itself."""
        return {
            "is_merged": self._is_merged,
            "num_samples": self._num_samples,
            "losses": (self._loss_sum, self._loss_count),
            "own": [tensor.detach().cpu().numpy().copy() for tensor in self._own],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_state`, once the module holds what was merged last."""
        self._last_merge = _copies([*self._parameters, *self._buffers])
        self._is_merged, self._num_samples = state["is_merged"], state["num_samples"]
        self._loss_sum, self._loss_count = state["losses"]
        _put(self._own, [torch.tensor(value) for value in state["own"]])


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """``[N]``, float64, where the first of them is."""
    return torch.cat([tensor.detach().flatten().double().to(tensors[0].device) for tensor in tensors])
