r"""From per-sample losses to one loss whose gradient is the weighted sum of the agents' gradients. A: agents, B: samples.

.. math::
    \sum_a w_a \nabla L_a = \nabla \sum_t c_t\, l_t, \qquad c_t = w_{a_t} m_t / n_{a_t}, \quad n_a = \sum_{t: a_t = a} m_t

One backward pass does for all agents. With L >= 2 learners the sums run over all of them, and since
``DistributedDataParallel`` averages gradients, each learner's own loss is multiplied by L.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def sum_by_agent(values: Tensor, agents: Tensor, num_agents: int, *, num_learners: int) -> Tensor:
    """Add samples up by agent, over all learners.

    :param values: ``[K, B]``.
    :param agents: Whose sample it is, ``[B]``, 0 to A - 1.
    :param num_agents: A.
    :param num_learners: More than one: every learner must call this at the same point.
    :return: ``[K, A]``, float64, the same on all learners to the bit.
    """
    # float64: a sum must not depend on how the samples are spread over learners, not even in the eighth digit.
    sums = torch.zeros(len(values), num_agents, dtype=torch.float64, device=values.device)
    sums.index_add_(1, agents, values.to(torch.float64))
    if num_learners > 1:
        distributed.all_reduce(sums)
    return sums


def weighted_loss(losses: Tensor, agents: Tensor, valid: Tensor, factors: Tensor) -> Tensor:
    """Reduce per-sample losses.

    :param losses: ``[B]``, differentiable.
    :param agents: ``[B]``.
    :param valid: Samples that count ``[B]``, bool.
    :param factors: ``w / n`` times the number of learners, ``[A]``.
    :return: Scalar.
    """
    # where, not a product: 0 * NaN is NaN.
    return (factors.to(losses.dtype)[agents] * losses).where(valid, 0.0).sum()
