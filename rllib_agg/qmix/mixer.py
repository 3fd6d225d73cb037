"""Mixers: the team's value from those of its agents. Axes: B any batch dimensions, n agents, s size of the state, e units."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MonotonicMixer(nn.Module):
    r"""A network whose weights, all >= 0, depend on the state, so that no agent's value can lower the team's.

    :math:`Q = |w_2(s)| \cdot \mathrm{elu}(q |W_1(s)| + b_1(s)) + v(s)`

    :param num_agents: n.
    :param state_size: s.
    :param embed_dim: e.
    :param hypernet_dim: Units of the layer between the state and W_1 and w_2; 0: none.

    Source: Rashid et al. (2018), section 4, figure 2.
    """

    def __init__(self, num_agents: int, state_size: int, *, embed_dim: int, hypernet_dim: int) -> None:
        super().__init__()
        self.num_agents, self.embed_dim, self.hypernet_dim = num_agents, embed_dim, hypernet_dim
        weights = [num_agents * embed_dim, embed_dim]
        # All that is linear in the state is one product: of W_1 and w_2 the first layer, b_1, and the first layer of v.
        self.sizes = [*([hypernet_dim] * 2 if hypernet_dim else weights), embed_dim, embed_dim]
        self.state_layer = nn.Linear(state_size, sum(self.sizes))
        self.first, self.second = (nn.Linear(hypernet_dim, size) if hypernet_dim else nn.Identity() for size in weights)
        self.value = nn.Linear(embed_dim, 1)

    def forward(self, values: Tensor, states: Tensor) -> Tensor:
        """Mix values q ``[B, n]``, in states ``[B, s]``, to the team's ``[B]``."""
        first, second, bias, value = self.state_layer(states).split(self.sizes, dim=-1)
        if self.hypernet_dim:
            first, second = first.relu(), second.relu()
        weights = self.first(first).abs().unflatten(-1, (self.num_agents, self.embed_dim))
        # A product of [n] and [n, e] in each sample is too small for a matrix product to pay.
        hidden = nn.functional.elu((values.unsqueeze(-1) * weights).sum(-2) + bias)
        mixed: Tensor = (hidden * self.second(second).abs()).sum(-1) + self.value(value.relu()).squeeze(-1)
        return mixed

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply w_2 and v by a number > 0, and so the team's value."""
        first, second, *_ = self.sizes
        layers = [self.second] if self.hypernet_dim else []
        for layer in (*layers, self.value):
            for parameter in layer.parameters():
                parameter.mul_(factor)
        if not self.hypernet_dim:
            for parameter in self.state_layer.parameters():
                parameter[first : first + second].mul_(factor)


class SumMixer(nn.Module):
    """The sum of the agents' values.

    Source: Sunehag et al. (2018), value-decomposition networks.
    """

    def forward(self, values: Tensor, states: Tensor) -> Tensor:
        """Mix values ``[B, n]`` to ``[B]``."""
        return values.sum(-1)


def make_mixer(name: str | None, num_agents: int, state_size: int, *, embed_dim: int, hypernet_dim: int) -> nn.Module | None:
    """Build ``qmix``, ``vdn``, or with ``None`` nothing: agents learn independently."""
    if name == "qmix":
        return MonotonicMixer(num_agents, state_size, embed_dim=embed_dim, hypernet_dim=hypernet_dim)
    return SumMixer() if name == "vdn" else None


def mix(mixer: nn.Module | None, values: Tensor, states: Tensor) -> Tensor:
    """The team's values ``[B, 1]``, or, without a mixer, the agents' own ``[B, n]``."""
    if mixer is None:
        return values
    mixed: Tensor = mixer(values, states).unsqueeze(-1)
    return mixed


def seed_mixer(mixer: nn.Module | None, generator: torch.Generator, *, orthogonal: bool, scale: float) -> None:
    """Draw a mixer's parameters: torch's uniform ones, or orthogonal weights and no biases.

    :param scale: Factor on what the team's value is linear in, so that a small one lets it begin near 0.
    """
    for layer in () if mixer is None else mixer.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
            if orthogonal:
                nn.init.orthogonal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
    if isinstance(mixer, MonotonicMixer):
        mixer.scale_output(scale)
