r"""Gradient steps that see every agent's gradient. Axes: A agents, B samples of a minibatch, P parameters.

SB3 gets copies of a network's outputs :math:`o` without a graph to the parameters. Its backward pass leaves there the gradient
of its loss with respect to them. From there, agent by agent,

.. math:: g_a = \frac{B}{n_a} \sum_{n: a(n) = a} \frac{\partial L}{\partial o_n} \frac{\partial o_n}{\partial \theta}

is the gradient of the agent's own mean loss. Where a rule weighs and SB3 draws, the factor is A, as in
:mod:`sb3_agg.off_policy.weighted`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl_agg import Combiner
from rl_agg.optimizers import step_scale
from rl_agg.per_agent_gradients import flatten_gradients, gradients_by_agent, unflatten
from sb3_agg.local_models.stacked_policy import StackedPolicy
from sb3_agg.off_policy.algorithms import Part
from sb3_agg.off_policy.hooks import Update
from sb3_agg.off_policy.minibatches import Batch
from sb3_agg.patching import is_stock
from sb3_agg.per_agent_gradients.base import view_per_agent


class PerAgentUpdate(Update):
    """Gradients that are exchanged agent by agent, those of each network by themselves."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._combines = isinstance(self.rule.scheme.rule, Combiner)
        self._stacked: dict[Part, _Stacked] = {}
        self._outputs: dict[Part, tuple[list[Tensor], list[Tensor]]] = {}

    def begin(self, *args: Any) -> None:
        """A call of ``train()`` begins, maybe with other networks, or other parameters to train, than the last one."""
        super().begin(*args)
        for part in self.algorithm.parts:
            network, parameters, known = getattr(self.model, part.network), self.trained(part), self._stacked.get(part)
            if known is None or not known.is_of(network, parameters):
                self._stacked[part] = _Stacked(network, parameters, self.rule.num_agents)

    def evaluate(self, part: Part, batch: Batch, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Copies of the network's outputs, on which SB3's backward pass will end."""
        if part in self._evaluated:
            raise ValueError(
                f"{self._train} evaluates {part.network} twice before one step of its optimiser, and only the last would "
                "count: each agent's gradient is taken of one minibatch; accumulate by interval= instead"
            )
        stacked = self._stacked[part]
        stacked.is_used = batch.equal_parts and stacked.is_possible
        outputs = stacked(method, *args, **kwargs) if stacked.is_used else method(*args, **kwargs)
        several = isinstance(outputs, tuple)
        originals = list(outputs) if several else [outputs]
        copies = [output.detach().requires_grad_() for output in originals]
        self._outputs[part] = (originals, copies)
        return tuple(copies) if several else copies[0]

    def prepare_step(self, part: Part, batch: Batch, optimizer: torch.optim.Optimizer) -> bool:
        """Merge the agents' gradients and put the outcome where the optimiser reads it; nothing where none is due."""
        parameters = self.trained(part)
        if any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters):
            raise ValueError(
                f"the loss has a part that reaches the parameters of {part.network} other than through its outputs, which "
                "would not act where each agent's gradient is taken by itself; leave it out, or choose a rule that weighs"
            )
        matrix = self._gradients(part, batch, parameters)
        exchange, signals = self.exchanges[part.optimizer], self.signals(batch)
        idle = (batch.counts == 0) & ~signals.masked()
        scale = step_scale(optimizer, parameters) if exchange.scales else None
        chance = not (self._combines or self.minibatches.stratified or "num_samples" in self.needs)
        merged = exchange.step(matrix, signals, idle=idle if bool(idle.any()) else None, scale=scale, zeros=chance)
        if merged is None:
            for parameter in parameters:
                parameter.grad = None
            return True
        self._note_masked(batch, merged.masked)
        if merged.weights is not None:
            self.weights.append((merged.weights, merged.present))
        vector = self._clipped(merged.vector)
        for parameter, gradient in zip(parameters, unflatten(vector, parameters), strict=True):
            parameter.grad = gradient
        return bool(merged.present.any()) and bool(vector.sum().isfinite())

    def _gradients(self, part: Part, batch: Batch, parameters: list[Tensor]) -> Tensor:
        """Each agent's gradient ``[A, P]``."""
        scales = len(batch.agents) / batch.counts.clamp(min=1).double() if self._combines else self._scales(batch)
        per_sample = scales.float()[batch.agents]
        pairs = [
            (output, copy.grad * per_sample.view(-1, *[1] * (copy.ndim - 1)))
            for output, copy in zip(*self._outputs.pop(part), strict=True)
            if copy.grad is not None and output.requires_grad
        ]
        outputs, output_gradients = [output for output, _ in pairs], [gradient for _, gradient in pairs]
        stacked = self._stacked[part]
        if stacked.is_used:
            return stacked.gradients(outputs, output_gradients)
        module = getattr(self.model, part.network)
        return gradients_by_agent(outputs, output_gradients, batch.agents, len(batch.counts), module, parameters)

    def _clipped(self, gradient: Tensor) -> Tensor:
        """A gradient as ``train()`` clips its own, which it finds empty here."""
        limit: float | None = getattr(self.model, "max_grad_norm", None)
        return gradient if limit is None else gradient * (limit / (gradient.norm() + 1e-6)).clamp(max=1.0)


class _Stacked:
    """A network in which each agent has its own view of the parameters, so that one backward pass has all agents' gradients.

    :param network: The network.
    :param parameters: Those whose gradients are asked for.
    :param num_agents: A.
    """

    is_used = False
    """Whether it was evaluated last, and not the network itself."""

    def __init__(self, network: Any, parameters: list[Tensor], num_agents: int) -> None:
        asked = {id(parameter) for parameter in parameters}
        named = {name: item for name, item in network.named_parameters() if id(item) in asked}
        self._network, self._parameters = network, parameters
        self._stacked = StackedPolicy(network, named)
        self._views = {name: view_per_agent(item, num_agents) for name, item in named.items()}
        in_order = [id(item) for item in named.values()] == [id(parameter) for parameter in parameters]
        self.is_possible = is_stock(type(network)) and self._stacked.is_linear and in_order

    def is_of(self, network: Any, parameters: list[Tensor]) -> bool:
        """Whether these are the network and the parameters that it was made of."""
        mine = self._parameters
        return network is self._network and len(mine) == len(parameters) and all(map(operator.is_, mine, parameters))

    def __call__(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a method of the network returns for the samples of all agents, which are equally many, agent by agent."""
        several = False

        def noting(*args: Any, **kwargs: Any) -> Any:
            nonlocal several
            outputs = method(*args, **kwargs)
            several = isinstance(outputs, tuple)
            return outputs

        outputs = self._stacked(noting, self._views, *args, **kwargs)
        return tuple(outputs) if several else outputs[0]

    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor:
        """Differentiate from the outputs to the parameters, ``[A, P]``."""
        views = list(self._views.values())
        gradients = torch.autograd.grad(outputs, views, output_gradients, allow_unused=True)
        return flatten_gradients(gradients, self._parameters, len(views[0]))
