r"""Gradients of policies whose parameters are all in linear layers. Axes: A agents, M samples of each, B samples.

One plain evaluation is enough: an agent's gradients of a layer follow from the inputs and the output gradients of its samples,
see :mod:`sb3_agg.per_agent_gradients.factors`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_agg.patching import temporarily
from sb3_agg.per_agent_gradients.base import GradientBackend, UnsupportedPolicyError, view_per_agent
from sb3_agg.per_agent_gradients.factors import FactoredGradients, Factors
from sb3_agg.rollouts.losses import Outputs
from sb3_agg.rollouts.minibatches import Minibatches


class LinearBackend(GradientBackend):
    """One evaluation with layers that record their inputs and outputs, and one backward pass to the outputs.

    The standard deviation of a Gaussian policy, which is no layer, is expanded to one row per sample.
    """

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        super().__init__(policy, minibatches)
        self._equal = minibatches.equal_parts
        self._num_agents = minibatches.num_present if self._equal else len(minibatches.present)
        self._layers = [module for module in policy.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
        owned = [parameter for layer in self._layers for parameter in layer.parameters()]
        found = set(owned)
        if len(found) < len(owned):
            raise UnsupportedPolicyError("layers share a parameter")
        others = [name for name, parameter in self._parameters.items() if parameter not in found]
        if others and not (others == ["log_std"] and _is_plain_gaussian(policy)):
            raise UnsupportedPolicyError(f"{others} are in no linear layer")
        self._forwards = {
            layer: partial(self._forward, layer, layer.weight.detach(), _detached(layer.bias)) for layer in self._layers
        }
        self._log_std = view_per_agent(policy.log_std, self._num_agents) if others else None
        ends = list(itertools.accumulate(parameter.numel() for parameter in self._parameters.values()))
        self._size = ends[-1]
        self._columns = dict(zip(self._parameters.values(), map(slice, [0, *ends], ends), strict=False))
        self._calls: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {}
        self._memory: Tensor | None = None
        self._slots: Tensor | None = None
        self._num_slots = 0
        self._num_rows = 0

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate with the recording layers."""
        if not self._equal:
            self._slots, self._num_slots = _slots(self._minibatches.agents, self._num_agents)
        self._num_rows = self._minibatches.agents.shape[0]
        self._calls.clear()
        with ExitStack() as stack:
            if self._log_std is not None:
                stack.enter_context(temporarily(self._policy, log_std=self._per_sample(self._log_std)))
            for layer, forward in self._forwards.items():
                # Code that reads a layer's weight directly would go unnoticed; without parameters, it raises AttributeError
                stack.enter_context(temporarily(layer, forward=forward, _parameters={}))
            try:
                outputs = list(evaluate_actions(*args, **kwargs))
            except (AttributeError, RuntimeError) as error:
                raise UnsupportedPolicyError(str(error)) from error
        if any(output._version for calls in self._calls.values() for _, output in calls):
            raise UnsupportedPolicyError("a layer's output is changed in place")
        return outputs

    def _forward(self, layer: nn.Linear, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
        output = nn.functional.linear(inputs, weight, bias)
        if not torch.is_grad_enabled():  # a frozen part of the user's
            return output
        if inputs.shape[0] != self._num_rows:
            raise UnsupportedPolicyError(f"a layer sees {len(inputs)} rows for {self._num_rows} samples")
        if not output.requires_grad:
            output.requires_grad_()
        self._calls.setdefault(layer, []).append((inputs.detach(), output))
        return output

    def _per_sample(self, views: Tensor) -> Tensor:
        """``[A, ...]`` to ``[B, ...]``."""
        if self._equal:
            return views.repeat_interleave(len(self._minibatches.agents) // self._num_agents, dim=0)
        return views[self._minibatches.agents]

    def _per_agent(self, samples: Sequence[Tensor]) -> Tensor:
        """``[B, ..., F]`` each to ``[A, M, F]`` in all, padded with zeros where agents have unequally many samples."""
        if self._slots is not None:
            padded = [item.new_zeros(self._num_agents * self._num_slots, *item.shape[1:]) for item in samples]
            for item, own in zip(padded, samples, strict=True):
                item[self._slots] = own
            samples = padded
        parts = [item.reshape(self._num_agents, -1, item.shape[-1]) for item in samples]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # a layer that is used several times

    @torch.no_grad()
    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> FactoredGradients:
        """One backward pass to the layers' outputs."""
        sources = [output for calls in self._calls.values() for _, output in calls]
        if self._log_std is not None:
            sources.append(self._log_std)
        back = iter(torch.autograd.grad(outputs, sources, output_gradients, allow_unused=True, materialize_grads=True))
        factors = [
            Factors(
                self._per_agent([next(back) for _ in calls]),
                self._per_agent([inputs for inputs, _ in calls]),
                self._columns.get(layer.weight),
                None if layer.bias is None else self._columns.get(layer.bias),
            )
            for layer, calls in self._calls.items()
        ]
        if self._log_std is not None:  # as the bias of a layer with one sample of each agent
            deltas = next(back).flatten(1)[:, None]
            factors.append(Factors(deltas, deltas[..., :0], None, self._columns[self._policy.log_std]))
        idle = [layer for layer in self._layers if layer not in self._calls]
        unused = [self._columns[item] for layer in idle for item in layer.parameters() if item in self._columns]
        return FactoredGradients(factors, unused, self._size, self._reserve)

    def _reserve(self, *shape: int) -> Tensor:
        """Memory for a matrix, the same each time: to allocate it takes longer than to fill it."""
        if self._memory is None or self._memory.shape != shape:
            self._memory = next(iter(self._parameters.values())).new_empty(shape)
        return self._memory


def _detached(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()


def _is_plain_gaussian(policy: Any) -> bool:
    """Whether ``log_std`` enters by SB3's own formula, which holds for one sample as well as for all."""
    formula = getattr(type(policy), "_get_action_dist_from_latent", None)
    return type(policy.action_dist) is DiagGaussianDistribution and formula is ActorCriticPolicy._get_action_dist_from_latent


def _slots(agents: Tensor, num_agents: int) -> tuple[Tensor, int]:
    """The row of each sample ``[B]`` where all agents have as many rows as the one with the most samples, and that number."""
    counts = torch.bincount(agents, minlength=num_agents)
    order = agents.argsort(stable=True)
    most = int(counts.max())
    starts = counts.cumsum(0) - counts
    slots = torch.empty_like(agents)
    slots[order] = torch.arange(len(agents), device=agents.device) - starts[agents[order]] + agents[order] * most
    return slots, most
