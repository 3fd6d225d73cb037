"""Parameters as parts of one tensor, and gradients of another. Axes: A agents, P parameters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl_agg.per_agent_gradients import unflatten


class Memory:
    """Where the values and gradients of parameters are.

    :param parameters: Those that are trained, P numbers in all.
    :param values: ``[P]``, or ``[A, P]`` where each agent has its own.
    :param gradients: Of the same shape.
    :raises ValueError: if they have another size.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], values: Tensor, gradients: Tensor) -> None:
        self.parameters = list(parameters)
        self.values, self.gradients = values, gradients
        self._reserved: Tensor | None = None
        ends = list(itertools.accumulate(parameter.numel() for parameter in self.parameters))
        self.columns = {
            id(item): slice(*ends_of) for item, ends_of in zip(parameters, itertools.pairwise([0, *ends]), strict=True)
        }
        """The columns of a parameter, by its ``id``; a frozen one has none."""
        if ends[-1] != values.shape[-1]:
            raise ValueError(f"the parameters have {ends[-1]} numbers, but there is memory for {values.shape[-1]}")

    def reserve(self, *shape: int) -> Tensor:
        """Memory for a matrix, the same each time: to allocate it takes longer than to fill it."""
        if self._reserved is None or self._reserved.shape != shape:
            self._reserved = self.values.new_empty(shape)
        return self._reserved

    @property
    def is_shared(self) -> bool:
        """Whether all agents have the same parameters."""
        return self.values.ndim == 1

    def value(self, parameter: nn.Parameter) -> Tensor:
        """A parameter's value, or each agent's ``[A, ...]``."""
        columns = self.columns.get(id(parameter))
        if columns is not None:
            return torch.unflatten(self.values[..., columns], -1, parameter.shape)
        frozen = parameter.detach()
        return frozen if self.is_shared else frozen.expand(len(self.values), *frozen.shape)

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        """Where its gradient is written; ``None`` if it is frozen."""
        columns = self.columns.get(id(parameter))
        return None if columns is None else torch.unflatten(self.gradients[..., columns], -1, parameter.shape)


class FlatParameters(Memory):
    """A module's parameters, made views of one vector.

    :param parameters: All of one type and on one device; trained.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        values = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        super().__init__(parameters, values, torch.zeros_like(values))
        self._views = list(
            zip(self.parameters, unflatten(values, parameters), unflatten(self.gradients, parameters), strict=True)
        )

    def bind(self) -> None:
        """Make the parameters views again, with the values that they have, where they are not."""
        for parameter, value, gradient in self._views:
            if parameter.data_ptr() != value.data_ptr() or parameter.stride() != value.stride():
                value.copy_(parameter.detach())
                parameter.data = value
            if parameter.grad is not gradient:
                parameter.grad = gradient
