"""The agents' networks, stacked, so that a step of all is a handful of batched products and never a loop.

Axes: n agents, m networks (n, or 1 that all agents share), B batch, T time, K sequences of each network, d inputs, H units,
a actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_agg.closed_form.modules import NoClosedFormError, check_hooks, check_methods
from rllib_agg.qmix.recurrence import recur

LAYERS = ("feature", "rnn", "head")
"""From the observation to the values; what periodic sharing chooses from."""


class StackedLinear(nn.Module):
    """m linear layers."""

    def __init__(self, networks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(networks, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(networks, 1, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply each to its own inputs ``[m, K, inputs]``."""
        return torch.baddbmm(self.bias, inputs, self.weight)


class StackedRecurrence(nn.Module):
    """m gated recurrent units."""

    def __init__(self, networks: int, inputs: int, size: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(networks, inputs, 3 * size))
        self.bias_ih = nn.Parameter(torch.empty(networks, 1, 3 * size))
        self.weight_hh = nn.Parameter(torch.empty(networks, size, 3 * size))
        self.bias_hh = nn.Parameter(torch.empty(networks, 1, 3 * size))

    def forward(self, inputs: Tensor, start: Tensor, running: Sequence[int] | None = None) -> Tensor:
        """Hidden states of all steps, from inputs ``[m, T, K, inputs]`` and those before the first ``[m, K, H]``.

        :param running: See :func:`~rllib_agg.qmix.recurrence.recur`.
        """
        size = start.shape[-1]
        gate_bias, share_bias = self.bias_hh[..., : 2 * size], self.bias_hh[..., 2 * size :]
        bias = self.bias_ih + nn.functional.pad(gate_bias, (0, size))  # one addition less in every step
        return recur(inputs, start, self.weight_ih, bias, self.weight_hh, share_bias, running)


class AgentNetworks(nn.Module):
    """Values of each agent's actions from all its observations so far: a layer, a gated recurrent unit and a linear head.

    :param num_agents: n.
    :param num_actions: a.
    :param observation_size: Of each agent.
    :param hidden: H.
    :param shared: One network for all agents, instead of one for each.
    :param agent_ids: Whether inputs include a one-hot agent number.

    Source: Rashid et al. (2018), section 6.1 and appendix.
    """

    def __init__(
        self, num_agents: int, num_actions: int, observation_size: int, *, hidden: int, shared: bool, agent_ids: bool
    ) -> None:
        super().__init__()
        self.num_agents, self.num_actions, self.observation_size = num_agents, num_actions, observation_size
        self.hidden, self.shared, self.agent_ids = hidden, shared, agent_ids
        self.num_networks = 1 if shared else num_agents
        self.input_size = observation_size + num_actions + (num_agents if agent_ids else 0)
        self.feature = StackedLinear(self.num_networks, self.input_size, hidden)
        self.rnn = StackedRecurrence(self.num_networks, hidden, hidden)
        self.head = StackedLinear(self.num_networks, hidden, num_actions)
        self.initialize(None, orthogonal=False, same=False)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None, *, orthogonal: bool, same: bool) -> None:
        """Draw all parameters.

        :param generator: To draw from; ``None``: torch's own.
        :param orthogonal: Orthogonal weights and no biases, instead of torch's uniform ones.
        :param same: The same for all networks.
        """
        for index in range(1 if same else self.num_networks):
            for layer, fan_in in ((self.feature, self.input_size), (self.rnn, self.hidden), (self.head, self.hidden)):
                for name, parameter in layer.named_parameters():
                    width = self.num_actions if layer is self.head else self.hidden
                    if not orthogonal:
                        parameter[index].uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
                    elif name.startswith("bias"):
                        parameter[index].zero_()
                    else:
                        for block in torch.split(parameter[index], width, dim=-1):  # a gate each, of the recurrence's
                            nn.init.orthogonal_(block, generator=generator)
        if same:
            for parameter in self.parameters():
                parameter.copy_(parameter[:1].clone().expand_as(parameter))

    @property
    def is_plain(self) -> bool:
        """Whether it computes what is written here: no layer was derived, replaced or hooked."""
        kinds = [AgentNetworks, StackedLinear, StackedRecurrence, StackedLinear]
        try:
            check_hooks(self)
            check_methods(self)
        except NoClosedFormError:
            return False
        return [type(part) for part in self.modules()] == kinds

    def start(self, batch: int) -> Tensor:
        """Hidden states before the first step of B episodes ``[m, K, H]``."""
        sequences = batch * self.num_agents // self.num_networks
        return self.head.weight.new_zeros(self.num_networks, sequences, self.hidden)

    def arrange(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Inputs of the networks.

        :param observations: ``[B, T, n, d]``, of any precision.
        :param actions: The last ones ``[B, T, n]``; -1 where there was none.
        :return: ``[m, T, K, d]``, with ``K = B`` or, of a shared network, ``K = B n``: the agents of an episode in a row.
        """
        batch, steps, agents, size = observations.shape
        inputs = self.head.weight.new_zeros(steps, batch, agents, self.input_size)
        inputs[..., :size] = observations.transpose(0, 1)
        last = actions.transpose(0, 1).unsqueeze(-1)
        inputs[..., size : size + self.num_actions].scatter_(-1, last.clamp(min=0), (last >= 0).to(inputs.dtype))
        if self.agent_ids:
            inputs[..., size + self.num_actions :] = torch.eye(agents).to(inputs)
        return inputs.view(1, steps, batch * agents, -1) if self.shared else inputs.permute(2, 0, 1, 3).contiguous()

    def forward(self, inputs: Tensor, start: Tensor, lengths: NDArray[np.int64] | None = None) -> tuple[Tensor, Tensor]:
        """Values of all actions.

        :param inputs: From :meth:`arrange` ``[m, T, K, d]``.
        :param start: ``[m, K, H]``.
        :param lengths: Steps of each episode ``[B]``, descending; what comes after them is without meaning. ``None``: all T.
        :return: Values ``[B, T, n, a]`` and the last hidden states ``[m, K, H]``.
        """
        hidden = self.encode(inputs, start, lengths)
        return self.evaluate(hidden), hidden[:, -1]

    def encode(self, inputs: Tensor, start: Tensor, lengths: NDArray[np.int64] | None = None) -> Tensor:
        """Hidden states of all steps ``[m, T, K, H]``; arguments as of :meth:`forward`."""
        networks, steps, sequences, _ = inputs.shape
        features = self.feature(inputs.flatten(1, 2)).relu_().view(networks, steps, sequences, self.hidden)
        hidden: Tensor = self.rnn(features, start, None if lengths is None else self._running(lengths, steps))
        return hidden

    def evaluate(self, hidden: Tensor) -> Tensor:
        """Values of all actions ``[B, T, n, a]`` from hidden states ``[m, T, K, H]``."""
        return self.by_agent(self.head(hidden.flatten(1, 2)).view(*hidden.shape[:-1], self.num_actions))

    def by_agent(self, rows: Tensor) -> Tensor:
        """Undo the stacking: ``[m, T, K, x] -> [B, T, n, x]``."""
        if self.shared:
            _, steps, _, size = rows.shape
            return rows.view(steps, -1, self.num_agents, size).transpose(0, 1)
        return rows.permute(2, 1, 0, 3)

    def _running(self, lengths: NDArray[np.int64], steps: int) -> list[int]:
        """How many sequences of a network have each step ``[T]``."""
        counts: list[int] = (np.arange(steps)[:, None] < lengths).sum(1).tolist()
        return [count * self.num_agents for count in counts] if self.shared else counts
