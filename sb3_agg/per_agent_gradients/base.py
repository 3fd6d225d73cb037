r"""Each agent's own gradient from one evaluation of the policy. Axes: A agents, B samples of a minibatch, P parameters.

What SB3's backward pass leaves on the policy's outputs, :math:`\partial L / \partial o_n`, is carried on to the parameters
separately for each agent,

.. math:: g_a = \sum_{n: a(n) = a} \frac{\partial L}{\partial o_n} \frac{\partial o_n}{\partial \theta}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sb3_agg.rollouts.losses import Outputs
from sb3_agg.rollouts.minibatches import Minibatches


class UnsupportedPolicyError(Exception):
    """A backend that does not support this policy, or this minibatch."""


class GradientBackend(ABC):
    """One method of computing the agents' gradients separately.

    :param policy: SB3's actor-critic policy.
    :param minibatches: Where the samples come from.
    :raises UnsupportedPolicyError: if the policy cannot be differentiated by this method.
    """

    def __init__(self, policy: Any, minibatches: Minibatches) -> None:
        self._policy = policy
        self._minibatches = minibatches
        self._parameters = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}

    @abstractmethod
    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Call ``evaluate_actions`` so that its graph separates the agents.

        :param evaluate_actions: The policy's own.
        :return: What it returns.
        :raises UnsupportedPolicyError: if the evaluation turns out to be impossible.
        """

    @abstractmethod
    def gradients(self, outputs: list[Tensor], output_gradients: list[Tensor]) -> Tensor:
        """Differentiate from the outputs to the parameters.

        :param outputs: Those of :meth:`evaluate` that have a gradient, each ``[B, ...]``.
        :param output_gradients: Their gradients.
        :return: ``[A', P]``: of the agents that are present if the minibatch has equal parts of each, otherwise of all. Valid
            until the next call.
        """


def view_per_agent(parameter: Tensor, num_agents: int) -> Tensor:
    """A leaf ``[A, ...]`` that takes no memory, whose gradients are the agents'."""
    return parameter.detach().expand(num_agents, *parameter.shape).requires_grad_()
