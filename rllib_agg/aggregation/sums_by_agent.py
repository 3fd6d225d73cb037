"""Sums over each agent's samples, on all learners. A: agents, B: samples of this learner, P: parameters.

With ``num_learners`` of more than one, every learner must call these at the same point; all get the same to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from rl_agg.per_agent_gradients import gradients_by_agent


def sum_by_agent(values: Tensor, agents: Tensor, num_agents: int, *, num_learners: int) -> Tensor:
    """Add samples up by agent.

    :param values: ``[K, B]``.
    :param agents: Whose sample it is, ``[B]``, 0 to A - 1.
    :return: ``[K, A]``, float64.
    """
    # float64: a sum must not depend on how the samples are spread over learners, not even in the eighth digit.
    sums = torch.zeros(len(values), num_agents, dtype=torch.float64, device=values.device)
    sums.index_add_(1, agents, values.to(torch.float64))
    if num_learners > 1:
        distributed.all_reduce(sums)
    return sums


def sum_gradients_by_agent(
    losses: Tensor, agents: Tensor, valid: Tensor, module: nn.Module, num_agents: int, *, num_learners: int
) -> Tensor:
    """Differentiate the sum of each agent's losses.

    :param losses: ``[B]``, differentiable; its graph is kept.
    :param agents: Whose sample it is, ``[B]``, 0 to A - 1.
    :param valid: Samples that count ``[B]``, bool.
    :param module: Not wrapped in DDP, which would average these gradients over learners.
    :return: ``[A, P]``, see :func:`rl_agg.per_agent_gradients.gradients_by_agent`.
    """
    counted = torch.where(valid, agents, -1)
    matrix = gradients_by_agent([losses], [torch.ones_like(losses)], counted, num_agents, module)
    if num_learners > 1:
        distributed.all_reduce(matrix)
    return matrix
