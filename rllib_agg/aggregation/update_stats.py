"""What happened in one update, kept as tensors until it is over: logging each minibatch would cost more than it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_agg.exchange import Merged
from rl_agg.weighting import has_mixed_signs


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One of an update's M minibatches.

    :param losses: Mean loss of each agent ``[A]``.
    :param num_samples: ``[A]``.
    :param present: Whose gradient counts ``[A]``, bool.
    :param sends: Who sends a gradient ``[A]``, bool.
    :param weights: ``[A]``; ``None`` where they are not known yet, or a combiner decides.
    """

    losses: Tensor
    num_samples: Tensor
    present: Tensor
    sends: Tensor
    weights: Tensor | None


class UpdateRecord:
    """The minibatches of one update.

    :param excluded: Agents taken out because of their data, bool ``[A]``.
    """

    def __init__(self, excluded: Tensor) -> None:
        self.excluded = excluded
        self._minibatches: list[Minibatch] = []

    def add(self, losses: Tensor, num_samples: Tensor, *, present: Tensor, weights: Tensor | None = None) -> None:
        """Note a minibatch, in which all that are present send.

        :param losses: Mean loss of each agent ``[A]``.
        :param num_samples: ``[A]``.
        :param present: Whose gradient counts ``[A]``, bool.
        :param weights: ``[A]``, if they are known.
        """
        self._minibatches.append(Minibatch(losses, num_samples, present, present, weights))

    def settle(self, merged: Merged) -> None:
        """Note what a parameter server made of the last minibatch."""
        last = self._minibatches.pop()
        present = merged.present & (last.num_samples > 0)
        settled = dataclasses.replace(last, present=present, sends=merged.sends, weights=merged.weights)
        self._minibatches.append(settled)

    @property
    def last(self) -> Minibatch:
        """The last minibatch."""
        return self._minibatches[-1]

    def weights_of(self, present: Tensor) -> Tensor | None:
        """The last minibatch's weights, if the same agents' gradients counted in it.

        :param present: Whose, bool ``[A]``.
        """
        if not self._minibatches:
            return None
        return self.last.weights if torch.equal(self.last.present, present) else None

    def retract(self) -> None:
        """Forget the last minibatch, which is done again."""
        self._minibatches.pop()

    def corrupt_losses(self) -> Tensor:
        """Agents whose loss in the last minibatch is not finite, bool ``[A]``."""
        return ~self.last.losses.isfinite()

    def masked(self) -> Tensor:
        """Agents taken out for their data, return, loss or gradient, bool ``[A]``."""
        left_out = [(own.num_samples > 0) & ~(own.present & own.losses.isfinite()) for own in self._minibatches]
        return self.excluded | torch.stack(left_out).any(0)

    @property
    def nobody_left(self) -> bool:
        """Whether every agent of the last minibatch was masked."""
        return not bool((self.last.present if self.last.weights is None else self.last.weights).any())

    def num_sent(self) -> NDArray[np.int64]:
        """Gradients that each agent sent ``[A]``."""
        sent: NDArray[np.int64] = torch.stack([minibatch.sends for minibatch in self._minibatches]).sum(0).cpu().numpy()
        return sent

    def num_answered(self) -> NDArray[np.int64]:
        """Answers to each agent ``[A]``: one a minibatch, to whoever took part in any of them."""
        took_part = torch.stack([minibatch.present for minibatch in self._minibatches]).any(0).cpu().numpy()
        return len(self._minibatches) * took_part.astype(np.int64)

    def num_mixed_sign(self) -> int:
        """Minibatches in which the agents' losses had mixed signs."""
        losses = torch.stack([minibatch.losses for minibatch in self._minibatches])
        took_part = torch.stack([minibatch.num_samples for minibatch in self._minibatches]) > 0
        return int(has_mixed_signs(losses.where(took_part, torch.nan)).sum())

    def weights(self) -> Tensor | None:
        """``[M, A]``, NaN for agents without samples; ``None`` where a combiner decides."""
        weights = [minibatch.weights for minibatch in self._minibatches]
        if any(own is None for own in weights):
            return None
        took_part = torch.stack([minibatch.num_samples for minibatch in self._minibatches]) > 0
        return torch.stack([own for own in weights if own is not None]).where(took_part, torch.nan)


def log_weights(metrics: Any, key: tuple[str, ...], weights: Tensor) -> None:
    """Log what weights were, as means over an update's minibatches.

    :param metrics: The learner's MetricsLogger.
    :param key: Where.
    :param weights: ``[M, A]``, NaN for agents that took no part.
    """
    zeroed = weights.nan_to_num()
    values = {
        "weight_min": weights.nan_to_num(nan=torch.inf).amin(-1).nan_to_num(posinf=0.0),
        "weight_max": zeroed.amax(-1),
        "effective_agents": (zeroed.sum(-1).square() / zeroed.square().sum(-1)).nan_to_num(),
    }
    metrics.log_dict({name: value.mean().item() for name, value in values.items()}, key=key, window=1)


def log_counts(metrics: Any, key: tuple[str, ...], counts: dict[str, int], *, counts_here: bool) -> None:
    """Log counts that go on from update to update.

    :param metrics: The learner's MetricsLogger.
    :param key: Where.
    :param counts: This update's.
    :param counts_here: Whether this learner reports counts that all learners share: RLlib adds them up.
    """
    for name, value in counts.items():
        metrics.log_value((*key, name), value if counts_here else 0, reduce="lifetime_sum")
