"""The interface of combiners. Axes: A agents, P parameters."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rl_agg.payloads.base import VECTORS
from rl_agg.returned import described, is_foreign, tensor_of


class Combiner(ABC):
    """Combine the gradients of the agents that are present; subclass it for a combiner of your own."""

    payloads: ClassVar[frozenset[str]] = VECTORS
    """What it combines, by the payload's ``content``."""

    by_parameter: ClassVar[bool] = False
    """Whether it treats each parameter separately. It is then faster where one parameter's gradients are adjacent in memory,
    and ``merge`` may overwrite them."""

    by_distance: ClassVar[bool] = False
    """Whether it is a weighted sum whose weights depend on the gradients' distances from each other alone."""

    def seeded(self, run: int) -> "Combiner":
        """The same with the run's seed, of one that draws."""
        return self

    def at(self, step: int) -> "Combiner":
        """The combiner for a step, of one that draws among several."""
        return self

    def weigh(self, squared_distances: Tensor, *, num_masked: int) -> Tensor | None:
        """Weights by the gradients' distances; for combiners with ``by_distance``.

        :param squared_distances: Between any two gradients ``[A', A']``; may be overwritten.
        :param num_masked: As for :meth:`merge`.
        :return: ``[A']``; ``None`` if it needs the gradients themselves.
        """
        raise NotImplementedError(f"{type(self).__name__} does not weigh gradients by their distances")

    def check(self, num_agents: int) -> None:  # noqa: B027 - most work with any number
        """Check the number of agents.

        :param num_agents: A.
        :raises ValueError: if it cannot work with so many or few, naming the setting and the bound.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it keeps from step to step: most keep nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - as most keep nothing
        """Restore :meth:`state_dict`."""

    @torch.no_grad()
    def __call__(self, gradients: Tensor, *, present: Tensor | None = None, step: int = 0, overwrite: bool = False) -> Tensor:
        """Combine.

        :param gradients: ``[A, P]``, detached, in units of the loss per parameter.
        :param present: Agents that take part ``[A]``, bool; ``None`` means all. The rows of the others are not read.
        :param step: How many gradients have been combined before, for combiners that change from step to step.
        :param overwrite: Whether ``gradients`` may be changed, which may save a copy.
        :return: ``[P]``; zeros if no agent is present.
        :raises ValueError: if ``gradients`` is not a matrix, or a user's combiner returns something else than ``[P]``.
        """
        check_matrix(gradients)
        rows = gradients if present is None or bool(present.all()) else gradients[present]
        if not len(rows):
            return gradients.new_zeros(gradients.shape[1])
        combiner = self.at(step)
        if combiner.by_parameter and rows is gradients and not overwrite:
            rows = rows.clone()
        merged = combiner.merge(rows, num_masked=len(gradients) - len(rows), step=step)
        return combiner._checked(merged, gradients) if is_foreign(combiner) else merged

    def _checked(self, returned: Any, gradients: Tensor) -> Tensor:
        """What a user's combiner returned, as the gradients are."""
        size, merged = gradients.shape[1], tensor_of(returned, gradients)
        if merged is None or merged.shape != (size,):
            raise ValueError(
                f"{type(self).__name__} must return one number for each parameter, [P] = [{size}], got {described(returned)}"
            )
        return merged.to(gradients)

    @abstractmethod
    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Combine gradients that all take part.

        :param gradients: ``[A', P]``, A' >= 1.
        :param num_masked: How many agents were left out because their gradients were not finite.
        :param step: As in the call.
        :return: ``[P]``; of a combiner of your own also an array or a sequence.
        """


def check_matrix(gradients: Tensor) -> None:
    """Check the shape of a matrix of gradients.

    :raises ValueError: if it is not ``[A, P]``.
    """
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(f"gradients must be [A, P] with A, P >= 1, got shape {tuple(gradients.shape)}")
