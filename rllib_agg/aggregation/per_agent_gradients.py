"""Each agent's own gradient over all learners. A: agents, B: samples of this learner, P: parameters."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from rl_agg.per_agent_gradients import gradients_by_agent


def sum_gradients_by_agent(
    losses: Tensor, agents: Tensor, valid: Tensor, module: nn.Module, num_agents: int, *, num_learners: int
) -> Tensor:
    """Differentiate the sum of each agent's losses, over all learners.

    :param losses: ``[B]``, differentiable; its graph is kept.
    :param agents: Whose sample it is, ``[B]``, 0 to A - 1.
    :param valid: Samples that count ``[B]``, bool.
    :param module: Not wrapped in DDP, which would average these gradients over learners.
    :param num_agents: A.
    :param num_learners: More than one: every learner must call this at the same point.
    :return: ``[A, P]``, see :func:`rl_agg.per_agent_gradients.gradients_by_agent`. The same on all learners to the bit.
    """
    counted = torch.where(valid, agents, -1)
    matrix = gradients_by_agent([losses], [torch.ones_like(losses)], counted, num_agents, module)
    if num_learners > 1:
        distributed.all_reduce(matrix)
    return matrix
