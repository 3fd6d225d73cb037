r"""The gradients of linear layers in factors. Axes: A agents, M samples of each, P parameters.

With :math:`x_n` a layer's inputs and :math:`\delta_n` the loss's gradient with respect to its outputs, agent a's gradients of
its weight and bias are

.. math:: \sum_{n: a(n) = a} \delta_n x_n^\top \quad \text{and} \quad \sum_{n: a(n) = a} \delta_n

so that the inner products of any two agents' gradients follow from those of the :math:`\delta` and x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of a layer's gradients, and their columns in the matrix.

    :param deltas: ``[A, M, out]``.
    :param inputs: ``[A, M, in]``.
    :param weight: Columns of its weight's gradient; ``None`` if it is not trained.
    :param bias: The same for its bias.
    """

    deltas: Tensor
    inputs: Tensor
    weight: slice | None
    bias: slice | None


class FactoredGradients:
    """Gradients of A agents ``[A, P]``, in factors.

    :param layers: One for each layer.
    :param size: P.
    :param reserve: Memory for a matrix of some shape.
    """

    def __init__(self, layers: list[Factors], size: int, reserve: Callable[[int, int], Tensor]) -> None:
        self._layers, self._size, self._reserve = layers, size, reserve
        self._num_agents = len(layers[0].deltas)

    def products(self) -> Tensor | None:
        """Inner products of any two agents' gradients ``[A, A]``; ``None`` where the matrix is less work."""
        work = sum(layer.deltas.shape[1] ** 2 * (layer.deltas.shape[2] + layer.inputs.shape[2]) for layer in self._layers)
        if work > self._size:
            return None
        products = self._layers[0].deltas.new_zeros(self._num_agents, self._num_agents)
        for layer in self._layers:
            deltas, inputs = layer.deltas.flatten(0, 1), layer.inputs.flatten(0, 1)
            pairs = deltas @ deltas.T  # [A * M, A * M]
            if layer.weight is not None:
                pairs = pairs * (inputs @ inputs.T).add_(0.0 if layer.bias is None else 1.0)
            if layer.weight is not None or layer.bias is not None:
                products += pairs.view(self._num_agents, -1, self._num_agents, layer.deltas.shape[1]).sum((1, 3))
        return products

    def weighted(self, weights: Tensor) -> Tensor:
        """Their sum ``[P]``, each times its weight ``[A]``."""
        total = weights.new_zeros(self._size)
        for layer in self._layers:
            deltas = (layer.deltas * weights[:, None, None]).flatten(0, 1)
            if layer.weight is not None:
                total[layer.weight] = (deltas.T @ layer.inputs.flatten(0, 1)).flatten()
            if layer.bias is not None:
                total[layer.bias] = deltas.sum(0)
        return total

    def matrix(self, *, by_parameter: bool = False) -> Tensor:
        """All of them ``[A, P]``, valid until the next call.

        :param by_parameter: Whether one parameter's gradients should be adjacent in memory.
        """
        if by_parameter and all(layer.deltas.shape[1] == 1 for layer in self._layers):  # with more, it takes a transposition
            return self._by_parameter()
        matrix = self._reserve(self._num_agents, self._size)
        for layer in self._layers:
            if layer.weight is not None:
                shape = (layer.deltas.shape[2], layer.inputs.shape[2])
                _multiply(layer.deltas.mT, layer.inputs, torch.unflatten(matrix[:, layer.weight], 1, shape))
            if layer.bias is not None:
                matrix[:, layer.bias] = layer.deltas.sum(1)
        return matrix

    def _by_parameter(self) -> Tensor:
        """The matrix of one sample each, one parameter's gradients adjacent in memory."""
        rows = self._reserve(self._size, self._num_agents)
        for layer in self._layers:
            deltas, inputs = layer.deltas[:, 0].T.contiguous(), layer.inputs[:, 0].T.contiguous()
            if layer.weight is not None:
                torch.mul(deltas[:, None], inputs, out=rows[layer.weight].view(len(deltas), len(inputs), -1))
            if layer.bias is not None:
                rows[layer.bias] = deltas
        return rows.T


def _multiply(one: Tensor, other: Tensor, out: Tensor) -> None:
    """``[A, out, M]`` times ``[A, M, in]``."""
    if other.shape[1] > 1:
        out.copy_(one @ other)
    else:  # of one sample each, a product of matrices would take several times as long
        torch.mul(one, other, out=out)


def by_agent(samples: Tensor, num_agents: int, slots: Tensor | None, num_slots: int) -> Tensor:
    """``[B, F]`` to ``[A, M, F]``.

    :param samples: Agent by agent, equally many of each, if there are no slots.
    :param num_agents: A.
    :param slots: The row of each sample ``[B]`` where each agent has as many rows as the one with most samples, see
        :func:`slots_of`; rows without sample are zero.
    :param num_slots: M, with slots.
    """
    if slots is not None:
        padded = samples.new_zeros(num_agents * num_slots, samples.shape[-1])
        padded[slots] = samples
        samples = padded
    return samples.reshape(num_agents, -1, samples.shape[-1])


def slots_of(agents: Tensor, num_agents: int) -> tuple[Tensor, int]:
    """A row of its own for each sample, where each agent has as many rows as the one with most samples.

    :param agents: The agent of each sample ``[B]``.
    :param num_agents: A.
    :return: Rows ``[B]``, and how many each agent has.
    """
    counts = torch.bincount(agents, minlength=num_agents)
    order = agents.argsort(stable=True)
    most = int(counts.max())
    starts = counts.cumsum(0) - counts
    slots = torch.empty_like(agents)
    slots[order] = torch.arange(len(agents), device=agents.device) - starts[agents[order]] + agents[order] * most
    return slots, most
