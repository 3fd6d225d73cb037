"""Each agent's own gradient, for whoever must see them one by one. A: agents, B: samples, P: parameters, K: agents here.

A backward pass for each agent of a learner, through the graph of all samples: a loss may look at samples in order of time, so
that the batch cannot be cut up by agent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from ray.util import log_once
from torch import Tensor, distributed, nn

logger = logging.getLogger(__name__)

BATCHED_ROWS = 2048
"""K · B up to which one vectorised backward pass beats K of them on a CPU, where more rows only cost more memory."""


def sum_gradients_by_agent(
    losses: Tensor,
    agents: Tensor,
    valid: Tensor,
    module: nn.Module,
    num_agents: int,
    *,
    num_learners: int,
) -> Tensor:
    """Differentiate the sum of each agent's losses, over all learners.

    :param losses: ``[B]``, differentiable; its graph is kept.
    :param agents: Whose sample it is, ``[B]``, 0 to A - 1.
    :param valid: Samples that count ``[B]``, bool.
    :param module: Unwrapped: whatever averages gradients over learners must not see these.
    :param num_agents: A.
    :param num_learners: More than one: every learner must call this at the same point.
    :return: ``[A, P]``, P over :func:`trained_parameters`; zeros for an agent or a parameter that took no part. The same on
        all learners to the bit.
    """
    parameters = trained_parameters(module)
    matrix = torch.zeros(num_agents, sum(parameter.numel() for parameter in parameters), device=losses.device)
    here = torch.unique(agents[valid])
    if len(here):
        rows = ((agents == here[:, None]) & valid).to(losses.dtype)  # [K, B]
        recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())  # torch does not vectorise those
        at_once = not recurrent and (losses.is_cuda or rows.numel() <= BATCHED_ROWS)
        matrix[here] = (_at_once if at_once else _one_by_one)(losses, parameters, rows)
    if num_learners > 1:
        distributed.all_reduce(matrix)
    return matrix


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that a gradient is taken of, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def split_gradient(gradient: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """``[P]`` in the shapes of the parameters."""
    parts = torch.split(gradient, [parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for parameter, part in zip(parameters, parts, strict=True)]


def _at_once(losses: Tensor, parameters: Sequence[Tensor], rows: Tensor) -> Tensor:
    try:
        gradients = torch.autograd.grad(losses, parameters, rows, retain_graph=True, allow_unused=True, is_grads_batched=True)
    except RuntimeError as error:
        if log_once("agg_vectorised_backward"):
            logger.warning("This module has no vectorised backward pass; it takes one for each agent instead: %s", error)
        return _one_by_one(losses, parameters, rows)
    return _flat([None if part is None else part.flatten(1) for part in gradients], parameters, len(rows))


def _one_by_one(losses: Tensor, parameters: Sequence[Tensor], rows: Tensor) -> Tensor:
    own = [torch.autograd.grad(losses, parameters, row, retain_graph=True, allow_unused=True) for row in rows]
    flat = [_flat([None if part is None else part.reshape(1, -1) for part in parts], parameters, 1) for parts in own]
    return torch.cat(flat)


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], num_rows: int) -> Tensor:
    """``[K, ...]`` each to ``[K, P]``."""
    columns = [
        parameter.new_zeros(num_rows, parameter.numel()) if gradient is None else gradient
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
    return torch.cat(columns, dim=1)
