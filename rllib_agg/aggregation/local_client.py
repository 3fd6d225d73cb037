r"""A learner with parameters of its own, for FedAvg and FedProx. L: learners, each of which is a client.

Between two merges each learner steps with the gradient of its own samples alone; then all take over

.. math:: \theta = \sum_l \frac{n_l}{\sum_m n_m} \theta_l,

where :math:`n_l` are the samples that learner l has trained on since the last merge. Env runners, evaluation and whoever else
asks for weights get those of the last merge.

Source: McMahan et al. (2017), algorithm 1; Li et al. (2020), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from rl_agg.payloads import FedAvg, FedProx
from rllib_agg.aggregation.per_agent_gradients import trained_parameters


class LocalClient:
    """One learner's part in a scheme, for one module.

    :param scheme: The scheme.
    :param module: Unwrapped: averaging gradients over learners is what this does without.
    """

    def __init__(self, scheme: FedAvg, module: nn.Module) -> None:
        self.scheme = scheme
        self._module = module
        self._merged = [tensor.detach().clone() for tensor in self._tensors()]
        self._num_updates = 0
        self._num_samples = 0.0
        self.divergence = 0.0
        """Distance of this learner's parameters from the average, when they were merged last."""

    def _tensors(self) -> list[Tensor]:
        """What is merged: trained parameters, and what layers keep of the data they saw."""
        kept = [buffer for buffer in self._module.buffers() if buffer.is_floating_point()]
        return [*trained_parameters(self._module), *kept]

    @torch.no_grad()
    def begin_update(self, num_samples: float) -> None:
        """Called before the first step of an update.

        :param num_samples: Samples of this learner in it.
        """
        if self._num_updates == 0:
            self._merged = [tensor.detach().clone() for tensor in self._tensors()]
        self._num_updates += 1
        self._num_samples += num_samples

    def proximal_term(self) -> Tensor | None:
        r""":math:`\frac{\mu}{2} \lVert \theta_l - \theta \rVert^2`, differentiable; ``None`` in FedAvg."""
        if not isinstance(self.scheme, FedProx):
            return None
        pairs = zip(trained_parameters(self._module), self._merged, strict=False)  # buffers come last
        return 0.5 * self.scheme.mu * torch.stack([(own - merged).square().sum() for own, merged in pairs]).sum()

    def shares(self) -> Tensor:
        """What part of the samples since the last merge each learner has ``[L]``; all learners must call this together."""
        samples = torch.zeros(distributed.get_world_size(), dtype=torch.float64, device=self._merged[0].device)
        samples[distributed.get_rank()] = self._num_samples
        distributed.all_reduce(samples)
        return samples / samples.sum().clamp(min=1.0)

    @torch.no_grad()
    def merge(self, shares: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> int:
        """Merge, if an interval is over; all learners must call this together.

        :param shares: :meth:`shares`.
        :param optimizers: Those of the module's parameters.
        :return: How many numbers each learner sent; 0 if there was nothing to merge.
        """
        if self._num_updates < self.scheme.interval:
            return 0
        self._num_updates, self._num_samples = 0, 0.0
        if not bool(shares.any()):  # nobody has trained
            return 0
        merged = self._tensors()
        own = [tensor.detach().clone() for tensor in trained_parameters(self._module)]
        for optimizer in optimizers:
            if self.scheme.moments == "reset":
                optimizer.state.clear()
            elif self.scheme.moments == "merge":
                merged += _moments(optimizer)
        _average(merged, float(shares[distributed.get_rank()]))
        distances = [(now - before).norm() for now, before in zip(merged, own, strict=False)]  # parameters come first
        self.divergence = float(torch.stack(distances).norm())
        return sum(tensor.numel() for tensor in merged)

    @contextmanager
    def showing_merged(self) -> Iterator[None]:
        """Let the module hold what was merged last, where learners are on their own ways."""
        if self._num_updates == 0:
            yield
            return
        own = [tensor.detach().clone() for tensor in self._tensors()]
        self._put(self._merged)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for tensor, value in zip(self._tensors(), values, strict=True):
            tensor.copy_(value)

    def get_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "num_updates": self._num_updates,
            "num_samples": self._num_samples,
            "own": [tensor.detach().cpu().numpy().copy() for tensor in self._tensors()],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint, once the module holds what was merged last."""
        self._merged = [tensor.detach().clone() for tensor in self._tensors()]
        self._num_updates, self._num_samples = state["num_updates"], state["num_samples"]
        self._put([torch.tensor(value) for value in state["own"]])


def _moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What an optimiser remembers of gradients, and how many steps it has made."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad]
    if not optimizer.state:
        _start(optimizer, parameters)
    states = [optimizer.state[parameter] for parameter in parameters if parameter in optimizer.state]
    tensors = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _start(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
    """Give a learner that has made no step yet the moments that it would start from: zeros, in the shapes of the others'."""
    rates, gradients = [group["lr"] for group in optimizer.param_groups], [parameter.grad for parameter in parameters]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # of length 0: the only way to have any optimiser make its state
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor):
                value.zero_()


def _average(tensors: list[Tensor], share: float) -> None:
    """Replace tensors by their weighted sum over all learners, to the bit the same on all of them."""
    # In float64, parameters that are equal everywhere stay what they are.
    flat = share * torch.cat([tensor.flatten().double().to(tensors[0].device) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
