"""A policy evaluated and differentiated without a graph. Axes: A agents, B samples of a minibatch, P parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rl_agg.closed_form.factors import FactoredGradients, slots_of
from rl_agg.closed_form.memory import Memory
from sb3_agg.closed_form.objectives import PolicyOutputs
from sb3_agg.closed_form.support import Networks, actor_critic, distribution_of, features_of


class Evaluation:
    """A policy's networks and distribution, with parameters in some memory.

    :param policy: SB3's.
    :param parts: Of the policy.
    :param memory: ``[P]``, or ``[A, P]`` where agents have parameters of their own.
    """

    def __init__(self, policy: Any, parts: Networks, memory: Memory) -> None:
        self.memory = memory
        self.networks = actor_critic(parts, memory)
        self.distribution = distribution_of(policy, memory)
        self._features = features_of(policy)
        # Values of trained parameters are in memory, unless agents have their own; those of frozen ones where they were
        self._watched = [item for item in policy.parameters() if memory.is_shared or not item.requires_grad]
        self._places = [item.data_ptr() for item in self._watched]

    def is_current(self) -> bool:
        """Whether the policy's parameters are still where this looks for them."""
        return [item.data_ptr() for item in self._watched] == self._places

    def evaluate(self, samples: Any) -> PolicyOutputs:
        """Values, log-probabilities and entropies of a minibatch, as the policy's ``evaluate_actions``."""
        masks = getattr(samples, "action_masks", None)
        self.distribution.mask(None if masks is None else self._rows(masks.bool()))
        outputs, values = self.networks.forward(self._rows(self._features(samples.observations)))
        log_prob, entropy = self.distribution.evaluate(outputs, self._rows(samples.actions))
        return PolicyOutputs(values.flatten(), log_prob.flatten(), entropy.flatten())

    def _rows(self, samples: Tensor) -> Tensor:
        """``[A * M, ...]`` as ``[A, M, ...]`` where agents have parameters of their own."""
        return samples if self.memory.is_shared else torch.unflatten(samples, 0, (len(self.memory.values), -1))

    def backward(self, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> None:
        """Write the parameters' gradients to memory.

        :param values: The loss's gradient with respect to them ``[B]``.
        :param log_prob: The same ``[B]``.
        :param entropy: The same ``[B]``; ``None``: zero.
        """
        self.networks.backward(*self._of_layers(values, log_prob, entropy))
        self.distribution.write_gradients()

    def factors(self, gradients: Sequence[Any], agents: Tensor | None, num_agents: int) -> FactoredGradients:
        """Each agent's gradients.

        :param gradients: As :meth:`backward` takes them.
        :param agents: The agent of each sample ``[B]``; ``None``: equally many of each, agent by agent.
        :param num_agents: A.
        """
        self.networks.differentiate(*self._of_layers(*gradients))
        slots = (None, 0) if agents is None else slots_of(agents, num_agents)
        factors = self.networks.factors(num_agents, *slots) + self.distribution.factors(num_agents, agents)
        return FactoredGradients(factors, self.memory.values.shape[-1], self.memory.reserve)

    def _of_layers(self, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> tuple[Tensor, Tensor]:
        of_entropy = None if entropy is None else self._rows(entropy)
        return self.distribution.differentiate(self._rows(log_prob), of_entropy), self._rows(values[:, None])

    @torch.no_grad()
    def act(self, observations: Any, masks: Tensor | None, *, deterministic: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[B, D]``, values ``[B, 1]`` and log-probabilities ``[B]``; ``ValueError`` where networks return NaN."""
        self.distribution.mask(None if masks is None else self._rows(masks))
        outputs, values = self.networks.forward(self._rows(self._features(observations)))
        if math.isnan(outputs.sum()):  # as torch's distributions
            raise ValueError("the policy's networks returned NaN: a parameter or an observation of it is no number")
        actions, log_prob = self.distribution.sample(outputs, deterministic=deterministic)
        return actions.reshape(-1, actions.shape[-1]), values.reshape(-1, 1).clone(), log_prob.flatten()

    @torch.no_grad()
    def values(self, observations: Any) -> Tensor:
        """``[B, 1]``"""
        return self.networks.forward(self._rows(self._features(observations)))[1].reshape(-1, 1).clone()
