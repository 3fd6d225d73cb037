"""The weighted average of many agents' parameters. Axes: A agents."""

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def merge(stacked: Iterable[Tensor], weights: Tensor) -> list[Tensor]:
    """Average parameters of all agents.

    :param stacked: One tensor ``[A, ...]`` for each parameter.
    :param weights: How much each agent counts ``[A]``, >= 0, with a positive sum; they are divided by it. Parameters of agents
        that count nothing are not read.
    :return: One tensor ``[...]`` for each parameter. Counters, which are integers, are taken from the agent that counts most.
    :raises ValueError: if the weights have no positive, finite sum.
    """
    total = weights.sum()
    if weights.ndim != 1 or not bool(total > 0) or not bool(total.isfinite()) or bool((weights < 0).any()):
        raise ValueError(f"weights must be [A], >= 0, with a positive sum, got {weights.tolist()}")
    counts, most = weights > 0, int(weights.argmax())
    everyone = bool(counts.all())
    shares = weights[counts] / total
    return [
        average(parameters if everyone else parameters[counts], shares) if parameters.is_floating_point() else parameters[most]
        for parameters in stacked
    ]


def average(rows: Tensor, shares: Tensor) -> Tensor:
    """The weighted mean of vectors; numbers that are the same in all of them stay the same, where rounding would move them.

    :param rows: ``[A, ...]``.
    :param shares: ``[A]``, of sum 1.
    :return: ``[...]``.
    """
    mean = torch.tensordot(shares.to(rows), rows, dims=1)
    return torch.where((rows == rows[:1]).all(0), rows[0], mean)
