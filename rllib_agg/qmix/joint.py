"""Values of a team that are not mixed of its agents': QTRAN's joint networks, and the unrestricted ones of Weighted QMIX.

Axes: B any batch dimensions, n agents, a actions, s size of the state, H units of an agent's network.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from rllib_agg.qmix.networks import AgentNetworks


def layers(*sizes: int) -> nn.Sequential:
    """Linear layers between these sizes, with a rectifier between each two."""
    made: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        made += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*made[:-1])


class JointValues(nn.Module):
    r"""QTRAN's values of joint actions and of states.

    :math:`Q_{jt} = q\bigl(s, \sum_i g(h_i, u_i)\bigr)` and :math:`V_{jt} = v(s)`, with the agents' hidden states :math:`h_i`
    and their actions :math:`u_i`, one-hot.

    :param num_actions: a.
    :param hidden: H.
    :param state_size: s.
    :param embed_dim: Units of both layers of q and of v; g has H + a.

    Source: Son et al. (2019), QTRAN-base. Differs, as in PyMARL: q reads the state as well, and v only the state.
    """

    def __init__(self, num_actions: int, hidden: int, state_size: int, *, embed_dim: int) -> None:
        super().__init__()
        self.num_actions = num_actions
        encoded = hidden + num_actions
        self.encoding = layers(encoded, encoded, encoded)
        self.action_value = layers(state_size + encoded, embed_dim, embed_dim, 1)
        self.state_value = layers(state_size, embed_dim, embed_dim, 1)

    def forward(self, hidden: Tensor, actions: Tensor, states: Tensor) -> Tensor:
        """Values ``[B, 1]`` of joint actions ``[B, n]``, from hidden states ``[B, n, H]`` and states ``[B, s]``."""
        one_hot = nn.functional.one_hot(actions, self.num_actions).to(hidden)
        encoded = self.encoding(torch.cat([hidden, one_hot], dim=-1)).sum(-2)
        values: Tensor = self.action_value(torch.cat([states, encoded], dim=-1))
        return values


class CentralValues(nn.Module):
    """The unrestricted value of Weighted QMIX: networks that no agent acts by, and one without constraints on their values.

    :param networks: As those that act, with parameters of their own.
    :param state_size: s.
    :param embed_dim: Units of each of three layers.

    Source: Rashid et al. (2020). Differs from their code: no value of the state is added, which the network reads anyway.
    """

    def __init__(self, networks: AgentNetworks, state_size: int, *, embed_dim: int) -> None:
        super().__init__()
        self.networks = networks
        self.mixer = layers(state_size + networks.num_agents, embed_dim, embed_dim, embed_dim, 1)

    def mix(self, values: Tensor, states: Tensor) -> Tensor:
        """The team's values ``[B, 1]``, from those of the agents ``[B, n]`` in states ``[B, s]``."""
        mixed: Tensor = self.mixer(torch.cat([states, values], dim=-1))
        return mixed
