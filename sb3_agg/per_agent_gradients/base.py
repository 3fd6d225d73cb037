r"""Each agent's own gradient from one evaluation of the policy. Axes: A agents, B samples of a minibatch, P parameters.

What SB3's backward pass leaves on the policy's outputs, :math:`\partial L / \partial o_n`, is carried on to the parameters for
each agent by itself,

.. math:: g_a = \sum_{n: a(n) = a} \frac{\partial L}{\partial o_n} \frac{\partial o_n}{\partial \theta}

in one of three ways, from the fastest to the most general: :class:`~sb3_agg.per_agent_gradients.linear.LinearWay`,
:class:`StackedWay`, :class:`LoopedWay`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rl_agg.exchange import Factored
from sb3_agg.hooks.base import Outputs, beside
from sb3_agg.local_models.stacked_policy import StackedPolicy
from sb3_agg.rollouts.minibatches import Minibatches


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
        """What ``evaluate_actions`` returns, with a graph from which :meth:`gradients` can tell the agents apart.

        :raises UnfitError: if it turns out not to be possible.
        """

    @abstractmethod
    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor | Factored:
        """Go back from the outputs to the parameters.

        :param outputs: Those of :meth:`evaluate` that have a gradient, each ``[B, ...]``.
        :param output_gradients: Theirs.
        :return: ``[A', P]``: of the agents that are present if the minibatch has equal parts of each, otherwise of all. They
            hold until the next call.
        """


class StackedWay(Way):
    """For policies that ``torch.func.vmap`` understands: all agents at once, each with a view of its own of the parameters."""

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        super().__init__(policy, minibatches)
        self._views = {name: view_per_agent(item, minibatches.num_present) for name, item in self._parameters.items()}
        self._stacked_policy = StackedPolicy(policy, self._parameters)

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate agent by agent, in one go."""
        try:
            return self._stacked_policy(evaluate_actions, self._views, *args, **kwargs)
        except RuntimeError as error:
            raise UnfitError(str(error)) from error

    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor:
        """One backward pass."""
        views = list(self._views.values())
        return _flat(torch.autograd.grad(outputs, views, output_gradients, allow_unused=True), views)


class LoopedWay(Way):
    """For any policy and any minibatch: a backward pass for each agent."""

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Evaluate as ever."""
        return list(evaluate_actions(*args, **kwargs))

    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor:
        """One backward pass for each agent, with the others' gradients blanked out."""
        parameters, agents = list(self._parameters.values()), self._minibatches.agents
        numbers = range(len(self._minibatches.present))
        rows = torch.zeros(len(numbers), sum(parameter.numel() for parameter in parameters), device=agents.device)
        for agent in torch.unique(agents).tolist():
            own = [gradient.masked_fill(beside(gradient, agents != agent), 0.0) for gradient in output_gradients]
            row = torch.autograd.grad(outputs, parameters, own, allow_unused=True, retain_graph=True)
            rows[agent] = _flat([None if part is None else part[None] for part in row], [item[None] for item in parameters])[0]
        present = torch.as_tensor(self._minibatches.present, device=agents.device)
        return rows[present] if self._minibatches.equal_parts else rows


def view_per_agent(parameter: Tensor, num_agents: int) -> Tensor:
    """A leaf ``[A, ...]`` that takes no memory, whose gradients are the agents'."""
    return parameter.detach().expand(num_agents, *parameter.shape).requires_grad_()


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """``[A, ...]`` each to ``[A, P]``."""
    rows = [
        (torch.zeros_like(copies) if gradient is None else gradient).reshape(len(copies), -1)
        for gradient, copies in zip(gradients, parameters, strict=True)
    ]
    return torch.cat(rows, dim=1)
