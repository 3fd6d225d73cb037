r"""Periodic parameter sharing: agents that learn a network each, and now and then merge them. Axes: A agents.

=========== ================================== =====================
scheme      how much an agent counts           which layers
=========== ================================== =====================
``a_pps``   as much as any                     all
``rs_pps``  its share of the agents' rewards   all
``pp_pps``  its share of the agents' rewards   some, the others stay
=========== ================================== =====================

Parameters are stacked, ``[A, ...]`` for each, and named ``layer.parameter``.

Source: Zhang et al. (2024), PPS-QMIX, section 4. Their public code differs: there RS-PPS counts all agents alike, and PP-PPS
averages the first layers, evenly, and leaves the head.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rl_agg.payloads.averaging import merge
from rl_agg.payloads.local_schemes import MOMENTS
from rl_agg.validation import check_count, check_flag, unknown_choice

PERIODIC_SHARINGS = ("a_pps", "rs_pps", "pp_pps")
"""Schemes by name."""

Stacked = Mapping[str, Tensor]


def reward_shares(rewards: Tensor) -> Tensor:
    r"""How much each agent counts: :math:`R_a / \sum_b R_b`.

    A share is one only if no reward is negative. If one is, the least is subtracted from all; if nothing is left to share out,
    all count alike.

    >>> reward_shares(torch.tensor([3.0, 1.0])).tolist(), reward_shares(torch.tensor([4.0, -2.0, -1.0])).tolist()
    ([0.75, 0.25], [0.8571428656578064, 0.0, 0.1428571492433548])

    :param rewards: R, what each agent has earned ``[A]``, in any unit.
    :return: ``[A]``, >= 0, of sum 1.
    :raises ValueError: if one is not finite.

    Source: Zhang et al. (2024), section 4.2. Differs: negative rewards and a sum of 0, undefined there.
    """
    if rewards.ndim != 1 or not rewards.numel() or not bool(rewards.isfinite().all()):
        raise ValueError(f"rewards must be [A] finite numbers, got {rewards.tolist()}")
    least = rewards.min()
    credits = rewards - least if bool(least < 0) else rewards
    largest = credits.max()
    if not bool(largest > 0):
        return torch.full_like(rewards, 1 / len(rewards))
    credits = credits / largest  # so that tiny or huge ones have a sum
    return credits / credits.sum()


def a_pps(stacked: Stacked, *, types: Sequence[str] | None = None) -> dict[str, Tensor]:
    r"""Average all parameters evenly: :math:`\theta \leftarrow \sum_a \theta_a / A`.

    :param stacked: Parameters ``[A, ...]`` by name.
    :param types: A name for each agent ``[A]``; only agents of one type are averaged. ``None``: all.
    :return: What each agent goes on with ``[A, ...]``, by name.

    Source: Zhang et al. (2024), section 4.1.
    """
    num_agents = len(next(iter(stacked.values())))
    return rs_pps(stacked, torch.zeros(num_agents), types=types)


def rs_pps(stacked: Stacked, rewards: Tensor, *, types: Sequence[str] | None = None) -> dict[str, Tensor]:
    r"""Average all parameters by reward: :math:`\theta \leftarrow \sum_a \frac{R_a}{\sum_b R_b} \theta_a`.

    :param stacked: Parameters ``[A, ...]`` by name.
    :param rewards: R ``[A]``, see :func:`reward_shares`.
    :param types: As for :func:`a_pps`; shares are those within a type.
    :return: What each agent goes on with ``[A, ...]``, by name.

    Source: Zhang et al. (2024), section 4.2.
    """
    merged = {name: parameters.detach().clone() for name, parameters in stacked.items()}
    for members in _members(types, len(rewards)):
        own = [parameters[members] for parameters in merged.values()]
        for parameters, mean in zip(merged.values(), merge(own, reward_shares(rewards[members].double())), strict=True):
            parameters[members] = mean
    return merged


def pp_pps(
    stacked: Stacked, rewards: Tensor, *, shared_layers: Collection[str] = ("head",), types: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Average some layers' parameters by reward; the others are an agent's own and stay.

    :param stacked: Parameters ``[A, ...]`` by name.
    :param rewards: R ``[A]``, see :func:`reward_shares`.
    :param shared_layers: Which; a parameter's layer is its name up to the first dot.
    :param types: As for :func:`a_pps`.
    :return: What each agent goes on with ``[A, ...]``, by name.
    :raises ValueError: if there is no such layer.

    Source: Zhang et al. (2024), section 4.3.
    """
    shared = layers_of(stacked, shared_layers)
    return {**stacked, **rs_pps(shared, rewards, types=types)}


def layers_of(stacked: Stacked, layers: Collection[str]) -> dict[str, Tensor]:
    """The parameters of some layers.

    :param stacked: Parameters by name.
    :param layers: Which.
    :raises ValueError: if there is no such layer, or none was named.
    """
    known = dict.fromkeys(name.split(".")[0] for name in stacked)
    if isinstance(layers, str) or not layers:
        raise ValueError(f"shared_layers must be a sequence of layers' names, got {layers!r}; choose from {', '.join(known)}")
    for layer in layers:
        if layer not in known:
            raise unknown_choice("shared layer", layer, known)
    return {name: parameters for name, parameters in stacked.items() if name.split(".")[0] in layers}


@dataclass(frozen=True)
class PeriodicSharing:
    """When and how agents merge.

    :param scheme: One of :data:`PERIODIC_SHARINGS`.
    :param interval: Gradient steps between two merges, >= 1.
    :param shared_layers: What ``pp_pps`` merges; not looked at by the others.
    :param moments: What becomes of the optimiser's moments of merged parameters, see :class:`~rl_agg.payloads.FedAvg`.
    :param targets: Whether target networks are merged as well.
    :param types: As for :func:`a_pps`.
    :raises ValueError: if a setting is out of range.
    """

    scheme: str
    interval: int = 300
    shared_layers: tuple[str, ...] = ("head",)
    moments: str = "keep"
    targets: bool = False
    types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.scheme not in PERIODIC_SHARINGS:
            raise unknown_choice("scheme", self.scheme, PERIODIC_SHARINGS)
        check_count("sharing_interval", self.interval, least=1)
        if self.moments not in MOMENTS:
            raise unknown_choice("moments", self.moments, MOMENTS)
        check_flag("merge_targets", self.targets)

    def shared(self, stacked: Stacked) -> dict[str, Tensor]:
        """Those parameters that are merged."""
        return layers_of(stacked, self.shared_layers) if self.scheme == "pp_pps" else dict(stacked)

    def merge(self, stacked: Stacked, rewards: Tensor) -> dict[str, Tensor]:
        """Merge parameters.

        :param stacked: Those of :meth:`shared` ``[A, ...]``.
        :param rewards: R ``[A]``; not looked at by ``a_pps``.
        """
        return a_pps(stacked, types=self.types) if self.scheme == "a_pps" else rs_pps(stacked, rewards, types=self.types)

    def speakers(self, num_agents: int) -> Tensor:
        """Who has somebody to merge with ``[A]``."""
        speaks = torch.zeros(num_agents, dtype=torch.bool)
        for members in _members(self.types, num_agents):
            speaks[members] = len(members) > 1
        return speaks


def _members(types: Sequence[str] | None, num_agents: int) -> list[Tensor]:
    if types is None:
        return [torch.arange(num_agents)]
    if len(types) != num_agents:
        raise ValueError(f"types must name one for each of {num_agents} agents, got {types!r}")
    return [torch.tensor([agent for agent, own in enumerate(types) if own == kind]) for kind in dict.fromkeys(types)]
