r"""Each agent's own gradient, from one graph of all samples. Axes: A agents, B samples, K agents with samples, P parameters.

.. math:: g_a = \sum_{n: a(n) = a} \frac{\partial L}{\partial o_n} \frac{\partial o_n}{\partial \theta}

takes one backward pass for each agent, through the same graph: a network may look at samples in order of time, so that the
batch cannot be cut up by agent.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

BATCHED_ROWS = 2048
"""K · B up to which one vectorised backward pass beats K of them on a CPU, where more rows only cost more memory."""


def gradients_by_agent(
    outputs: Sequence[Tensor],
    output_gradients: Sequence[Tensor],
    agents: Tensor,
    num_agents: int,
    module: nn.Module,
    parameters: Sequence[Tensor] | None = None,
) -> Tensor:
    """Differentiate each agent's part of a loss.

    :param outputs: What the loss is made of, each ``[B, ...]`` and differentiable; their graph is kept.
    :param output_gradients: The loss's gradient with respect to each of them.
    :param agents: Whose sample it is, ``[B]``, 0 to A - 1; samples of -1 do not count.
    :param num_agents: A.
    :param module: Not wrapped: whatever averages gradients over processes must not see these.
    :param parameters: Those to differentiate by; ``None``: the module's :func:`trained_parameters`.
    :return: ``[A, P]``, P over the parameters; zeros for an agent or a parameter without part in the loss.
    """
    parameters = trained_parameters(module) if parameters is None else parameters
    matrix = torch.zeros(num_agents, sum(parameter.numel() for parameter in parameters), device=agents.device)
    present = torch.unique(agents[agents >= 0])
    if len(present):
        own = agents == present[:, None]  # [K, B]
        rows = [_only(gradient, own) for gradient in output_gradients]
        recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())  # torch does not vectorise those
        vectorise = not recurrent and (agents.is_cuda or own.numel() <= BATCHED_ROWS)
        matrix[present] = (_at_once if vectorise else _one_by_one)(outputs, rows, parameters)
    return matrix


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that a gradient is taken of, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def flatten_gradients(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], num_rows: int) -> Tensor:
    """``[K, ...]`` each to ``[K, P]``, zeros where there is none.

    :param gradients: One for each parameter.
    :param parameters: In their own shapes.
    :param num_rows: K.
    """
    columns = [
        parameter.new_zeros(num_rows, parameter.numel()) if gradient is None else gradient.reshape(num_rows, -1)
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
    return torch.cat(columns, dim=1)


def unflatten(flat: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """``[P]`` or ``[A, P]`` as views in the shapes of the parameters, ``[...]`` or ``[A, ...]``."""
    parameters = list(parameters)
    parts = torch.split(flat, [parameter.numel() for parameter in parameters], dim=-1)
    leading = flat.shape[:-1]
    return [part.view(leading + parameter.shape) for parameter, part in zip(parameters, parts, strict=True)]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Parameters in a row ``[P]``, a copy."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@torch.no_grad()
def write(vector: Tensor, tensors: Sequence[Tensor]) -> None:
    """Give tensors the numbers of a vector ``[P]``."""
    for tensor, part in zip(tensors, unflatten(vector, tensors), strict=True):
        tensor.copy_(part)


def _only(gradient: Tensor, own: Tensor) -> Tensor:
    """``[B, ...]`` to ``[K, B, ...]``, zero for the samples of others, whatever theirs are."""
    mask = own.view(*own.shape, *[1] * (gradient.ndim - 1))
    return torch.where(mask, gradient, 0.0)


def _at_once(outputs: Sequence[Tensor], rows: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    try:
        gradients = torch.autograd.grad(outputs, parameters, rows, retain_graph=True, allow_unused=True, is_grads_batched=True)
    except RuntimeError as error:
        _warn_once(str(error))
        return _one_by_one(outputs, rows, parameters)
    return flatten_gradients(gradients, parameters, len(rows[0]))


def _one_by_one(outputs: Sequence[Tensor], rows: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    own = [
        torch.autograd.grad(outputs, parameters, row, retain_graph=True, allow_unused=True) for row in zip(*rows, strict=True)
    ]
    return torch.cat([flatten_gradients(gradients, parameters, 1) for gradients in own])


@cache
def _warn_once(reason: str) -> None:
    logger.warning("This module has no vectorised backward pass; it takes one for each agent instead: %s", reason)
