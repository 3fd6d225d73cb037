r"""Each agent's own gradient from one evaluation of the policy. Axes: A agents, B samples of a minibatch, P parameters.

What SB3's backward pass leaves on the policy's outputs, :math:`\partial L / \partial o_n`, is carried on to the parameters for
each agent by itself,

.. math:: g_a = \sum_{n: a(n) = a} \frac{\partial L}{\partial o_n} \frac{\partial o_n}{\partial \theta}

in one of three ways, from the fastest to the most general: :class:`LinearWay`, :class:`StackedWay`, :class:`LoopedWay`.
"""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_agg.minibatches import Minibatches
from sb3_agg.stacked_policy import StackedPolicy
from sb3_agg.updates import Outputs, beside


class UnfitError(Exception):
    """A way that does not fit this policy, or this minibatch."""


class Way(ABC):
    """One way to tell the agents' gradients apart.

    :param policy: SB3's actor-critic policy.
    :param minibatches: Where the samples come from.
    :raises UnfitError: if it is none for this policy.
    """

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        self._policy = policy
        self._minibatches = minibatches
        self._parameters = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}

    @abstractmethod
    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """What ``evaluate_actions`` returns, with a graph from which :meth:`rows` can tell the agents apart.

        :raises UnfitError: if it turns out not to be possible.
        """

    @abstractmethod
    def rows(self, outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Go back from the outputs to the parameters.

        :param outputs: Those of :meth:`evaluate` that have a gradient, each ``[B, ...]``.
        :param gradients: Theirs.
        :return: ``[A', P]``: of the agents that are present if the minibatch has equal parts of each, otherwise of all.
        """


class LinearWay(Way):
    r"""For policies whose parameters are all in linear layers: one plain evaluation.

    With :math:`x_n` what comes into a layer and :math:`\delta_n` what comes back to its output, agent a's gradient of its
    weight is :math:`\sum_{n: a(n) = a} \delta_n x_n^\top`. The standard deviation of a Gaussian policy, which is no layer, is
    given out sample by sample.
    """

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        super().__init__(policy, minibatches)
        self._equal = minibatches.equal_parts
        self._num_rows = minibatches.num_present if self._equal else len(minibatches.present)
        self._layers = [module for module in policy.modules() if type(module) is nn.Linear]
        found = {parameter for layer in self._layers for parameter in layer.parameters()}
        others = [name for name, parameter in self._parameters.items() if parameter not in found]
        if others and not (others == ["log_std"] and _is_plain_gaussian(policy)):
            raise UnfitError(f"{others} are in no linear layer")
        self._log_std = _view_per_agent(policy.log_std, self._num_rows) if others else None
        ends = list(itertools.accumulate(parameter.numel() for parameter in self._parameters.values()))
        self._columns = {
            parameter: slice(end - parameter.numel(), end)
            for parameter, end in zip(self._parameters.values(), ends, strict=True)
        }
        self._size = ends[-1]
        self._calls: list[tuple[_Layer, Tensor, Tensor]] = []
        self._slots: Tensor | None = None
        self._num_slots = 0

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate with layers that take down what comes in and goes out."""
        if not self._equal:
            self._slots, self._num_slots = _slots(self._minibatches.agents, self._num_rows)
        self._calls.clear()
        with ExitStack() as stack:
            for module in self._layers:
                own = vars(module)
                # Whoever reaches around a layer for its weight would go unnoticed; like this, it is an AttributeError
                stack.callback(own.__setitem__, "_parameters", own["_parameters"])
                stack.callback(own.pop, "forward")
                own["forward"] = partial(self._forward, _Layer(module.weight, module.bias))
                own["_parameters"] = {}
            if self._log_std is not None:
                vars(self._policy)["log_std"] = self._per_sample(self._log_std)
                stack.callback(vars(self._policy).pop, "log_std")
            try:
                outputs = list(evaluate_actions(*args, **kwargs))
            except (AttributeError, RuntimeError) as error:
                raise UnfitError(str(error)) from error
        if any(output._version for _, _, output in self._calls):
            raise UnfitError("what comes out of a layer is changed in place")
        return outputs

    def _forward(self, layer: _Layer, inputs: Tensor) -> Tensor:
        if len(inputs) != len(self._minibatches.agents):
            raise UnfitError(f"a layer sees {len(inputs)} rows for {len(self._minibatches.agents)} samples")
        output = nn.functional.linear(inputs, layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
        if not output.requires_grad:
            output.requires_grad_()
        self._calls.append((layer, inputs.detach(), output))
        return output

    def _per_sample(self, views: Tensor) -> Tensor:
        """``[A', ...]`` to ``[B, ...]``."""
        if self._equal:
            return views.repeat_interleave(len(self._minibatches.agents) // self._num_rows, dim=0)
        return views[self._minibatches.agents]

    def _per_agent(self, samples: Tensor) -> Tensor:
        """``[B, ..., F]`` to ``[A', M, F]``, filled up with zeros where agents have unequally many samples."""
        if self._slots is not None:
            padded = samples.new_zeros(self._num_rows * self._num_slots, *samples.shape[1:])
            padded[self._slots] = samples
            samples = padded
        return samples.reshape(self._num_rows, -1, samples.shape[-1])

    @torch.no_grad()
    def rows(self, outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """One backward pass from layer to layer, and a product of matrices for each."""
        sources = [output for _, _, output in self._calls]
        if self._log_std is not None:
            sources.append(self._log_std)
        back: Sequence[Tensor | None] = torch.autograd.grad(outputs, sources, gradients, allow_unused=True)
        rows = sources[0].new_empty(self._num_rows, self._size)
        unwritten = dict(self._columns)
        for (layer, inputs, _), delta in zip(self._calls, back, strict=False):
            if delta is None:
                continue
            per_agent = self._per_agent(delta)
            if layer.weight in self._columns:
                self._write(rows, layer.weight, unwritten, per_agent.mT, self._per_agent(inputs))
            if layer.bias is not None and layer.bias in self._columns:
                self._write(rows, layer.bias, unwritten, per_agent.sum(1))
        if self._log_std is not None and back[-1] is not None:
            self._write(rows, self._policy.log_std, unwritten, back[-1])
        for columns in unwritten.values():  # of layers that had no part in it
            rows[:, columns] = 0.0
        return rows

    def _write(self, rows: Tensor, parameter: Tensor, unwritten: dict[Tensor, slice], *factors: Tensor) -> None:
        """Put a product in its place, or add it to what is there of a layer that was used before."""
        place = rows[:, self._columns[parameter]].view(self._num_rows, *parameter.shape)
        if unwritten.pop(parameter, None) is None:
            place += factors[0] if len(factors) == 1 else factors[0] @ factors[1]
        elif len(factors) == 1:
            place.copy_(factors[0])
        elif factors[1].shape[1] == 1:  # one sample each: a product of matrices would take several times as long
            torch.mul(*factors, out=place)
        else:
            place.copy_(factors[0] @ factors[1])


@dataclass(frozen=True, slots=True)
class _Layer:
    weight: Tensor
    bias: Tensor | None


class StackedWay(Way):
    """For policies that ``torch.func.vmap`` understands: all agents at once, each with a view of its own of the parameters."""

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        super().__init__(policy, minibatches)
        self._views = {name: _view_per_agent(item, minibatches.num_present) for name, item in self._parameters.items()}
        self._stacked_policy = StackedPolicy(policy, self._parameters)

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate agent by agent, in one go."""
        try:
            return self._stacked_policy(evaluate_actions, self._views, *args, **kwargs)
        except RuntimeError as error:
            raise UnfitError(str(error)) from error

    def rows(self, outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """One backward pass."""
        views = list(self._views.values())
        return _flat(torch.autograd.grad(outputs, views, gradients, allow_unused=True), views)


class LoopedWay(Way):
    """For any policy and any minibatch: a backward pass for each agent."""

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate as ever."""
        return list(evaluate_actions(*args, **kwargs))

    def rows(self, outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """One backward pass for each agent, with the others' gradients blanked out."""
        parameters, agents = list(self._parameters.values()), self._minibatches.agents
        numbers = range(len(self._minibatches.present))
        rows = torch.zeros(len(numbers), sum(parameter.numel() for parameter in parameters), device=agents.device)
        for agent in torch.unique(agents).tolist():
            own = [gradient.masked_fill(beside(gradient, agents != agent), 0.0) for gradient in gradients]
            row = torch.autograd.grad(outputs, parameters, own, allow_unused=True, retain_graph=True)
            rows[agent] = _flat([None if part is None else part[None] for part in row], [item[None] for item in parameters])[0]
        present = torch.as_tensor(self._minibatches.present, device=agents.device)
        return rows[present] if self._minibatches.equal_parts else rows


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

    def rows(self, outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """As that way does."""
        return self._way.rows(outputs, gradients)

    def _warn(self, error: UnfitError) -> None:
        warnings.warn(
            f"{type(self._policy).__name__} cannot be evaluated for all agents at once, so each gradient step takes one "
            f"backward pass per agent: {error}",
            UserWarning,
            stacklevel=2,
        )


def _view_per_agent(parameter: Tensor, num_agents: int) -> Tensor:
    return parameter.detach().expand(num_agents, *parameter.shape).requires_grad_()


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


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """``[A, ...]`` each to ``[A, P]``."""
    rows = [
        (torch.zeros_like(copies) if gradient is None else gradient).reshape(len(copies), -1)
        for gradient, copies in zip(gradients, parameters, strict=True)
    ]
    return torch.cat(rows, dim=1)
