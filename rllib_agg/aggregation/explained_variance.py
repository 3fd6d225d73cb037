"""How much of the variance of each agent's returns the critic explains, over all learners. Axes: A agents, B samples."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rl_agg.explained_variance import explained_share
from rllib_agg.aggregation.advantages import RAW_ADVANTAGES
from rllib_agg.aggregation.sums_by_agent import sum_by_agent


def explained_variance(data: dict[str, Any], agents: Tensor, valid: Tensor, num_agents: int, *, num_learners: int) -> Tensor:
    """See :func:`~rl_agg.explained_variance.explained_share`.

    :param data: One module's columns.
    :param agents: Whose sample it is ``[B]``.
    :param valid: Samples that count ``[B]``, bool.
    :param num_learners: All of them must call this at the same point.
    :return: ``[A]``, float64, NaN for agents without samples.
    :raises ValueError: if the batch came without raw advantages, which are the returns less the critic's predictions.
    """
    if RAW_ADVANTAGES not in data:
        raise ValueError(
            "explained variance needs episodes: a batch does not hold what the critic predicted; give episodes=..., or choose "
            "a rule that does not read explained_variance"
        )
    columns = [data[name].reshape(-1).double() for name in (RAW_ADVANTAGES, Postprocessing.VALUE_TARGETS)]
    errors, returns = (column.where(valid, 0.0) for column in columns)
    first = torch.stack([errors, returns, returns.square(), valid.double()])
    sums = sum_by_agent(first, agents, num_agents, num_learners=num_learners)
    means = sums[:2] / sums[3]
    centred = [(column - mean[agents]).where(valid, 0.0) for column, mean in zip((errors, returns), means, strict=True)]
    squares = sum_by_agent(torch.stack(centred).square(), agents, num_agents, num_learners=num_learners)
    return explained_share(squares[0], squares[1], sums[2])
