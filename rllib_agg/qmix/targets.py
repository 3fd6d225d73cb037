r"""Targets of the values. Axes: B episodes, T time, k values of a step (1 of the team, or one of each agent)."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Which of T steps belong to an episode ``[B, T]``, by the episodes' lengths ``[B]``."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(1)


def td_lambda_targets(
    rewards: Tensor, next_values: Tensor, lengths: Tensor, terminated: Tensor, *, gamma: float, lambda_: float
) -> Tensor:
    r"""Average the n-step targets of all n.

    :math:`y_t = r_t + \gamma \left((1 - \lambda) V_{t+1} + \lambda y_{t+1}\right)`

    The last step's is :math:`r_t + \gamma V_{t+1}` where the episode was cut off, and :math:`r_t` where it terminated.

    :param rewards: ``[B, T]``.
    :param next_values: V after each step ``[B, T, k]``.
    :param lengths: Steps of each episode ``[B]``.
    :param terminated: Which episodes terminated ``[B]``.
    :param gamma: Discount.
    :param lambda_: 0: one step's.
    :return: ``[B, T, k]``; undefined after an episode's end.

    Source: Sutton and Barto (2018), section 12.1; of QMIX, Hu et al. (2021).
    """
    steps = rewards.shape[1]
    last = torch.arange(steps, device=lengths.device) == lengths.unsqueeze(1) - 1
    discounts = (gamma * ~(last & terminated.unsqueeze(1))).unsqueeze(-1)
    onward = (lambda_ * ~last).unsqueeze(-1)
    targets = rewards.unsqueeze(-1) + discounts * (1 - onward) * next_values
    if lambda_ > 0:
        factors = discounts * onward
        for step in reversed(range(steps - 1)):
            targets[:, step].addcmul_(factors[:, step], targets[:, step + 1])
    return targets
