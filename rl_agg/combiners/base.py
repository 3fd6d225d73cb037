"""What a combiner is. Axes: A agents, P parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor


class Combiner(ABC):
    """Combine the gradients of the agents that are present; subclass it for a combiner of your own."""

    by_parameter: ClassVar[bool] = False
    """Whether it treats each parameter by itself. It is then faster where a parameter's gradients lie beside each other, and
    ``merge`` may overwrite them."""

    by_distance: ClassVar[bool] = False
    """Whether it weighs the gradients, and their distances from each other are all that it looks at."""

    def at(self, step: int) -> Combiner:
        """The combiner for a step, of one that is several."""
        return self

    def weigh(self, squared_distances: Tensor, *, num_masked: int) -> Tensor | None:
        """Weights of gradients that are not at hand; for combiners that say ``by_distance``.

        :param squared_distances: Between any two gradients ``[A', A']``; may be overwritten.
        :param num_masked: As for :meth:`merge`.
        :return: ``[A']``; ``None`` if it has to see the gradients.
        """
        raise NotImplementedError(f"{type(self).__name__} does not weigh gradients by their distances")

    def check(self, num_agents: int) -> None:  # noqa: B027 - most work with any number
        """Refuse a number of agents that it cannot work with.

        :param num_agents: A.
        :raises ValueError: naming the setting and the bound.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it remembers from step to step: most remember nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - as most remember nothing
        """Go on from :meth:`state_dict`."""

    @torch.no_grad()
    def __call__(self, gradients: Tensor, *, present: Tensor | None = None, step: int = 0, overwrite: bool = False) -> Tensor:
        """Combine.

        :param gradients: ``[A, P]``, detached, in units of the loss per parameter.
        :param present: Who takes part ``[A]``, bool; ``None`` means all. The rows of the others are not read.
        :param step: How many gradients have been combined before, for combiners that change from step to step.
        :param overwrite: Whether ``gradients`` may be changed, which may save a copy.
        :return: ``[P]``; zeros if nobody is present.
        :raises ValueError: if ``gradients`` is not a matrix.
        """
        check_matrix(gradients)
        rows = gradients if present is None or bool(present.all()) else gradients[present]
        if not len(rows):
            return gradients.new_zeros(gradients.shape[1])
        combiner = self.at(step)
        if combiner.by_parameter and rows is gradients and not overwrite:
            rows = rows.clone()
        return combiner.merge(rows, num_masked=len(gradients) - len(rows), step=step)

    @abstractmethod
    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Combine gradients that all take part.

        :param gradients: ``[A', P]``, A' >= 1.
        :param num_masked: How many agents were left out because what they sent was not finite.
        :param step: As above.
        :return: ``[P]``.
        """


def check_matrix(gradients: Tensor) -> None:
    """Refuse what is no matrix of gradients.

    :raises ValueError: naming the shape.
    """
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(f"gradients must be [A, P] with A, P >= 1, got shape {tuple(gradients.shape)}")
