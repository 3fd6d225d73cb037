r"""Gradients of policies whose parameters are all in linear layers.

Axes: A agents, M samples of each, B samples of a minibatch, P parameters.

With :math:`x_n` what comes into a layer and :math:`\delta_n` what comes back to its output, agent a's gradients of its weight
and bias are

.. math:: \sum_{n: a(n) = a} \delta_n x_n^\top \quad \text{and} \quad \sum_{n: a(n) = a} \delta_n

so that one plain evaluation does, and the products of any two agents' gradients follow from those of the :math:`\delta` and x.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_agg.hooks.base import Outputs
from sb3_agg.per_agent_gradients.base import UnfitError, Way, view_per_agent
from sb3_agg.rollouts.minibatches import Minibatches


class LinearWay(Way):
    """One plain evaluation, with layers that take down what comes in and goes out.

    The standard deviation of a Gaussian policy, which is no layer, is given out sample by sample.
    """

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        super().__init__(policy, minibatches)
        self._equal = minibatches.equal_parts
        self._num_agents = minibatches.num_present if self._equal else len(minibatches.present)
        self._layers = [module for module in policy.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
        owned = [parameter for layer in self._layers for parameter in layer.parameters()]
        found = set(owned)
        if len(found) < len(owned):
            raise UnfitError("layers share a parameter")
        others = [name for name, parameter in self._parameters.items() if parameter not in found]
        if others and not (others == ["log_std"] and _is_plain_gaussian(policy)):
            raise UnfitError(f"{others} are in no linear layer")
        self._hooks = [
            (vars(layer), partial(self._forward, layer, layer.weight.detach(), _detached(layer.bias)), layer._parameters)
            for layer in self._layers
        ]
        self._log_std = view_per_agent(policy.log_std, self._num_agents) if others else None
        ends = list(itertools.accumulate(parameter.numel() for parameter in self._parameters.values()))
        starts = [0, *ends]
        self._size = ends[-1]
        self._columns = dict(zip(self._parameters.values(), map(slice, starts, ends), strict=False))
        self._calls: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {}
        self._memory: list[Tensor] = []
        self._slots: Tensor | None = None
        self._num_slots = 0
        self._num_rows = 0

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate as ever, but for the layers."""
        if not self._equal:
            self._slots, self._num_slots = _slots(self._minibatches.agents, self._num_agents)
        self._num_rows = self._minibatches.agents.shape[0]
        self._calls.clear()
        own = vars(self._policy)
        if self._log_std is not None:
            own["log_std"] = self._per_sample(self._log_std)
        for layer, forward, _ in self._hooks:
            # Whoever reaches around a layer for its weight would go unnoticed; like this, it is an AttributeError
            layer["forward"], layer["_parameters"] = forward, {}
        try:
            outputs = list(evaluate_actions(*args, **kwargs))
        except (AttributeError, RuntimeError) as error:
            raise UnfitError(str(error)) from error
        finally:
            own.pop("log_std", None)
            for layer, _, parameters in self._hooks:
                layer["_parameters"] = parameters
                del layer["forward"]
        if any(output._version for calls in self._calls.values() for _, output in calls):
            raise UnfitError("what comes out of a layer is changed in place")
        return outputs

    def _forward(self, layer: nn.Linear, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # a part that somebody froze
            return nn.functional.linear(inputs, weight, bias)
        if inputs.shape[0] != self._num_rows:
            raise UnfitError(f"a layer sees {len(inputs)} rows for {self._num_rows} samples")
        output = nn.functional.linear(inputs, weight, bias)
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
        """``[B, ..., F]`` each to ``[A, M, F]`` in all, filled up with zeros where agents have unequally many samples."""
        if self._slots is not None:
            padded = [item.new_zeros(self._num_agents * self._num_slots, *item.shape[1:]) for item in samples]
            for item, own in zip(padded, samples, strict=True):
                item[self._slots] = own
            samples = padded
        parts = [item.reshape(self._num_agents, -1, item.shape[-1]) for item in samples]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # a layer that is used several times

    @torch.no_grad()
    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> LinearGradients:
        """One backward pass from layer to layer."""
        calls = [(layer, inputs, output) for layer, calls in self._calls.items() for inputs, output in calls]
        sources = [output for _, _, output in calls]
        if self._log_std is not None:
            sources.append(self._log_std)
        back = torch.autograd.grad(outputs, sources, output_gradients, allow_unused=True, materialize_grads=True)
        deltas: dict[nn.Linear, list[Tensor]] = {}
        for (layer, _, _), delta in zip(calls, back, strict=False):
            deltas.setdefault(layer, []).append(delta)
        factors = [
            Factors(
                self._per_agent(deltas[layer]),
                self._per_agent([inputs for inputs, _ in calls]),
                self._columns.get(layer.weight),
                None if layer.bias is None else self._columns.get(layer.bias),
            )
            for layer, calls in self._calls.items()
        ]
        idle = [layer for layer in self._layers if layer not in self._calls]
        unused = [self._columns[item] for layer in idle for item in layer.parameters() if item in self._columns]
        log_std = None if self._log_std is None else (self._columns[self._policy.log_std], back[-1])
        return LinearGradients(factors, log_std, unused, self._num_agents, self._size, self._memory)


@dataclass(frozen=True, slots=True)
class Factors:
    """What a layer's gradients are made of, and where they go.

    :param deltas: ``[A, M, out]``.
    :param inputs: ``[A, M, in]``.
    :param weight: Columns of its weight's gradient; ``None`` if it is not trained.
    :param bias: The same for its bias.
    """

    deltas: Tensor
    inputs: Tensor
    weight: slice | None
    bias: slice | None


class LinearGradients:
    """Gradients of A agents ``[A, P]``, in factors.

    :param layers: Those of the layers.
    :param other: Columns, and gradients ``[A, ...]`` of a parameter that is in no layer.
    :param unused: Columns of layers that had no part in it.
    :param num_agents: A.
    :param size: P.
    :param memory: Where the matrix was put before. It is used again and again: to get memory takes longer than to fill it.
    """

    def __init__(
        self,
        layers: list[Factors],
        other: tuple[slice, Tensor] | None,
        unused: list[slice],
        num_agents: int,
        size: int,
        memory: list[Tensor],
    ) -> None:
        self._layers, self._other, self._unused = layers, other, unused
        self._num_agents, self._size, self._memory = num_agents, size, memory
        self._one_sample = all(layer.deltas.shape[1] == 1 for layer in layers)

    def products(self) -> Tensor | None:
        """Of any two agents' gradients ``[A, A]``; ``None`` where it is less work to multiply them out."""
        work = sum(layer.deltas.shape[1] ** 2 * (layer.deltas.shape[2] + layer.inputs.shape[2]) for layer in self._layers)
        if work > self._size:
            return None
        products = self._layers[0].deltas.new_zeros(self._num_agents, self._num_agents)
        for layer in self._layers:
            of_deltas, of_inputs = layer.deltas.flatten(0, 1), layer.inputs.flatten(0, 1)
            pairs = of_deltas @ of_deltas.T  # [A * M, A * M]
            if layer.weight is not None:
                pairs = pairs * (of_inputs @ of_inputs.T).add_(0.0 if layer.bias is None else 1.0)
            if layer.weight is not None or layer.bias is not None:
                products += pairs.view(self._num_agents, -1, self._num_agents, layer.deltas.shape[1]).sum((1, 3))
        if self._other is not None:
            rows = self._other[1].flatten(1)
            products += rows @ rows.T
        return products

    def weighted(self, weights: Tensor) -> Tensor:
        """Their sum ``[P]``, each times its weight ``[A]``."""
        total = weights.new_zeros(self._size)
        for layer in self._layers:
            deltas = (layer.deltas * weights[:, None, None]).flatten(0, 1)
            if layer.weight is not None:
                total[layer.weight] = (deltas.T @ layer.inputs.flatten(0, 1)).flatten()
            if layer.bias is not None:
                total[layer.bias] = deltas.sum(0)
        if self._other is not None:
            total[self._other[0]] = (weights @ self._other[1].flatten(1)).flatten()
        return total

    def matrix(self, *, by_parameter: bool = False) -> Tensor:
        """All of them ``[A, P]``, until the next call.

        :param by_parameter: Whether a parameter's gradients had better lie beside each other in memory.
        """
        if by_parameter and self._one_sample:  # with more of them, they would have to be turned around
            return self._by_parameter()
        matrix = self._place(self._num_agents, self._size)
        for layer in self._layers:
            if layer.weight is not None:
                shape = (layer.deltas.shape[2], layer.inputs.shape[2])
                _multiply(layer.deltas.mT, layer.inputs, torch.unflatten(matrix[:, layer.weight], 1, shape))
            if layer.bias is not None:
                matrix[:, layer.bias] = layer.deltas.sum(1)
        if self._other is not None:
            matrix[:, self._other[0]] = self._other[1].flatten(1)
        for columns in self._unused:
            matrix[:, columns] = 0.0
        return matrix

    def _by_parameter(self) -> Tensor:
        """The same of one sample each, with a parameter's gradients beside each other."""
        rows = self._place(self._size, self._num_agents)
        for layer in self._layers:
            deltas, inputs = layer.deltas[:, 0].T.contiguous(), layer.inputs[:, 0].T.contiguous()
            if layer.weight is not None:
                torch.mul(deltas[:, None], inputs, out=rows[layer.weight].view(len(deltas), len(inputs), -1))
            if layer.bias is not None:
                rows[layer.bias] = deltas
        if self._other is not None:
            rows[self._other[0]] = self._other[1].flatten(1).T
        for columns in self._unused:
            rows[columns] = 0.0
        return rows.T

    def _place(self, *shape: int) -> Tensor:
        if not self._memory or self._memory[0].shape != shape:
            self._memory[:] = [self._layers[0].deltas.new_empty(shape)]
        return self._memory[0]


def _multiply(one: Tensor, other: Tensor, place: Tensor) -> None:
    """``[A, out, M]`` times ``[A, M, in]``."""
    if other.shape[1] > 1:
        place.copy_(one @ other)
    else:  # of one sample each, a product of matrices would take several times as long
        torch.mul(one, other, out=place)


def _detached(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()


def _is_plain_gaussian(policy: Any) -> bool:
    """Whether ``log_std`` enters by SB3's own formula, which holds for one sample as well as for all."""
    formula = getattr(type(policy), "_get_action_dist_from_latent", None)
    return type(policy.action_dist) is DiagGaussianDistribution and formula is ActorCriticPolicy._get_action_dist_from_latent


def _slots(agents: Tensor, num_agents: int) -> tuple[Tensor, int]:
    """Where each sample stands if all agents had as many as the one with the most ``[B]``, and how many that are."""
    counts = torch.bincount(agents, minlength=num_agents)
    order = agents.argsort(stable=True)
    most = int(counts.max())
    starts = counts.cumsum(0) - counts
    slots = torch.empty_like(agents)
    slots[order] = torch.arange(len(agents), device=agents.device) - starts[agents[order]] + agents[order] * most
    return slots, most
