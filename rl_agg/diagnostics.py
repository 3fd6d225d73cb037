"""Numbers that a person reads to see what a rule did. Axes: M steps, A agents."""

import torch
from torch import Tensor


def weight_summary(weights: Tensor, present: Tensor | None = None) -> dict[str, float]:
    r"""Extremes of the weights, and the effective number of agents, as means over steps.

    :math:`1 / \sum_a s_a^2` with the shares :math:`s_a = w_a / \sum_b w_b`.

    :param weights: ``[M, A]``, M >= 1.
    :param present: Whose weight counts ``[M, A]``, bool; ``None``: all. ``weight_min`` is over agents that are present.
    :return: ``weight_min``, ``weight_max`` and ``effective_agents``.
    """
    if present is None:
        present = torch.ones_like(weights, dtype=torch.bool)
    known = weights.where(present, 0.0)
    least = weights.where(present, torch.inf).min(1).values
    shares = known / known.sum(1, keepdim=True)
    return {
        "weight_min": least.where(least.isfinite(), 0.0).mean().item(),
        "weight_max": known.max(1).values.mean().item(),
        "effective_agents": (1 / shares.square().sum(1)).nanmean().nan_to_num().item(),
    }
