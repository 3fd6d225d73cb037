"""What happened in one update, kept as tensors until it is over: logging each minibatch would cost more than the minibatch.

Axes: A agents, M minibatches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_agg.diagnostics import weight_summary
from rl_agg.exchange import Merged
from rl_agg.rules import has_mixed_signs


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One of an update's M minibatches.

    :param losses: Mean loss of each agent ``[A]``.
    :param num_samples: ``[A]``.
    :param present: Whose gradient counts ``[A]``, bool.
    :param masked: Who has samples that do not count ``[A]``, bool.
    :param weights: ``[A]``; ``None`` where a combiner decides, or nothing was merged.
    """

    losses: Tensor
    num_samples: Tensor
    present: Tensor
    masked: Tensor
    weights: Tensor | None


class UpdateStats:
    """The minibatches of one update.

    :param excluded: Agents excluded because of their data ``[A]``, bool.
    """

    def __init__(self, excluded: Tensor) -> None:
        self.excluded = excluded
        self._minibatches: list[Minibatch] = []

    def add(self, losses: Tensor, num_samples: Tensor, *, present: Tensor, weights: Tensor | None = None) -> None:
        """Record a :class:`Minibatch`, with its weights if they are known."""
        masked = (num_samples > 0) & ~present
        self._minibatches.append(Minibatch(losses, num_samples, present, masked, weights))

    def add_merged(self, groups: Sequence[Merged]) -> None:
        """Record what the exchanges of the module's groups made of the last minibatch: who counted, or was masked, in any."""
        last = self._minibatches.pop()
        present, masked = (
            torch.stack([getattr(merged, name) for merged in groups]).any(0) & (last.num_samples > 0)
            for name in ("present", "masked")
        )
        self._minibatches.append(dataclasses.replace(last, present=present, masked=masked, weights=groups[-1].weights))

    @property
    def last(self) -> Minibatch:
        """The last minibatch."""
        return self._minibatches[-1]

    def weights_of(self, present: Tensor) -> Tensor | None:
        """The last minibatch's weights, if the same agents' gradients ``[A]`` counted in it."""
        if not self._minibatches:
            return None
        return self.last.weights if torch.equal(self.last.present, present) else None

    def remove_last(self) -> None:
        """Remove the last minibatch, which is repeated without some agents."""
        self._minibatches.pop()

    def masked(self) -> Tensor:
        """Agents left out because of their data, return, loss or gradient ``[A]``, bool."""
        left_out = [own.masked | ((own.num_samples > 0) & ~own.losses.isfinite()) for own in self._minibatches]
        return self.excluded | torch.stack(left_out).any(0)

    @property
    def num_minibatches(self) -> int:
        """M."""
        return len(self._minibatches)

    def num_present(self) -> NDArray[np.int64]:
        """Minibatches in which each agent's gradient counted ``[A]``."""
        counts: NDArray[np.int64] = torch.stack([own.present for own in self._minibatches]).sum(0).cpu().numpy()
        return counts

    def loss_and_samples(self) -> tuple[Tensor, Tensor]:
        """Sum of all losses, and how many there were; scalars."""
        losses, n = (torch.stack([getattr(own, name) for own in self._minibatches]) for name in ("losses", "num_samples"))
        return (losses * n).where(n > 0, 0.0).sum(), n.sum()

    def num_mixed_sign(self) -> int:
        """Minibatches in which the agents' losses had mixed signs."""
        losses = torch.stack([own.losses for own in self._minibatches])
        has_samples = torch.stack([own.num_samples for own in self._minibatches]) > 0
        return int(has_mixed_signs(losses.where(has_samples, torch.nan)).sum())

    def weight_summary(self) -> dict[str, float]:
        """See :func:`rl_agg.diagnostics.weight_summary`; empty where there are no weights."""
        weighed = [(own.weights, own.present) for own in self._minibatches if own.weights is not None]
        if not weighed:
            return {}
        weights, present = (torch.stack(parts) for parts in zip(*weighed, strict=True))
        return weight_summary(weights, present)
