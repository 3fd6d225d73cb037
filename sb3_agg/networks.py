"""Network sizes of the weighting paper, as ``policy_kwargs``."""

from __future__ import annotations

from typing import Any

from rl_agg.network_sizes import hidden_layers


def network(size: str) -> dict[str, Any]:
    """Give actor and critic separate networks of one of the paper's sizes, see :data:`rl_agg.network_sizes.HIDDEN_LAYERS`.

    >>> network("small")
    {'net_arch': {'pi': [64, 64], 'vf': [64, 64]}}

    :param size: ``"small"``, ``"medium"`` or ``"large"``.
    :return: ``policy_kwargs`` for any actor-critic policy of Stable-Baselines3.
    :raises ValueError: if the size is unknown.
    """
    return {"net_arch": {"pi": hidden_layers(size), "vf": hidden_layers(size)}}
