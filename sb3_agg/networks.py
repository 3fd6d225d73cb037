"""Network sizes of the weighting paper, as ``policy_kwargs``."""

from __future__ import annotations

from typing import Any

HIDDEN_LAYERS: dict[str, list[int]] = {
    "small": [64] * 2,
    "medium": [85] * 4,
    "large": [273] * 6,
}


def network(size: str) -> dict[str, Any]:
    """Give actor and critic separate networks of one of the paper's sizes.

    On CartPole: small 9,155 parameters, medium 44,968, large 751,572.

    >>> network("small")
    {'net_arch': {'pi': [64, 64], 'vf': [64, 64]}}

    :param size: ``"small"``, ``"medium"`` or ``"large"``.
    :return: ``policy_kwargs`` for any actor-critic policy of Stable-Baselines3.
    :raises ValueError: if the size is unknown.

    Source: Holen et al. (2023), section 3.4, which gives depths (1, 4 and 6 hidden layers) and totals (about 9,000, 45,000
    and 750,000 parameters) but no widths. Differs: small has two hidden layers, since with one of 64 units it would have
    about 1,000 parameters, not 9,000.
    """
    if size not in HIDDEN_LAYERS:
        raise ValueError(f"unknown network size {size!r}; choose from {', '.join(HIDDEN_LAYERS)}")
    layers = HIDDEN_LAYERS[size]
    return {"net_arch": {"pi": list(layers), "vf": list(layers)}}
