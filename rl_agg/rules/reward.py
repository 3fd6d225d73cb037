"""Weights by return. Axis A: agents."""

import torch
from torch import Tensor

from rl_agg.rules.base import above_least, floor, required, shares
from rl_agg.signals import Signals


def reward_weights(signals: Signals, *, h: float | None = None) -> Tensor:
    r"""Weights proportional to the min-shifted episodic return, plus a floor.

    :math:`w_a = (r_a - \min r) / \sum_b (r_b - \min r) + 1/h`

    :param signals: ``returns`` ``[A]``, undiscounted, in the environment's own units.
    :param h: Unitless, > 0. The floor every agent keeps is ``1/h``; ``None`` means ``A``.
    :return: Weights ``[A]``, summing to ``1 + A/h``. All returns equal: ``1/A + 1/h``.
    :raises ValueError: if ``h`` is not positive or ``returns`` is missing.

    Source: Holen et al. (2023), algorithm 2. Differs: the equal-returns case, undefined there.
    """
    returns = required(signals, "returns")
    return shares(above_least(returns)) + floor(h, signals.num_agents)


def reward_shares(signals: Signals) -> Tensor:
    r"""Each agent's share of the returns: :math:`w_a = r_a / \sum_b r_b`.

    A share is one only if no return is negative. If one is, the least is subtracted from all; if nothing is left to share,
    all agents count alike.

    :param signals: ``returns`` ``[A]``, what each agent has earned, in any unit.
    :return: Weights ``[A]``, >= 0, summing to 1.
    :raises ValueError: if ``returns`` is missing.

    Source: Zhang et al. (2024), section 4.2. Differs: negative returns and a sum of 0, undefined there.
    """
    returns = required(signals, "returns")
    credits = above_least(returns) if bool(returns.min() < 0) else returns
    largest = credits.max()
    if not bool(largest > 0):
        return torch.full_like(returns, 1 / len(returns))
    credits = credits / largest  # so that tiny or huge ones have a sum
    return credits / credits.sum()
