"""What the weights were in one update, kept as tensors until it is over: logging each minibatch would cost more than it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rl_agg.weighting import has_mixed_signs
from rllib_agg.aggregation.finite import SKIPPED_UPDATES


class UpdateRecord:
    """Weights, losses and sample counts of the M minibatches of one update.

    :param excluded: Agents taken out because of their data, bool ``[A]``.
    """

    def __init__(self, excluded: Tensor) -> None:
        self.excluded = excluded
        self._minibatches: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, weights: Tensor, losses: Tensor, num_samples: Tensor) -> None:
        """Note a minibatch.

        :param weights: ``[A]``.
        :param losses: Mean loss of each agent ``[A]``.
        :param num_samples: ``[A]``.
        """
        self._minibatches.append((weights, losses, num_samples))

    def weights_of(self, present: Tensor) -> Tensor | None:
        """The last minibatch's weights, if the same agents took part in it.

        :param present: Which, bool ``[A]``.
        """
        if not self._minibatches:
            return None
        weights, _, num_samples = self._minibatches[-1]
        return weights if torch.equal(num_samples > 0, present) else None

    def retract(self) -> None:
        """Forget the last minibatch, which is done again."""
        self._minibatches.pop()

    def corrupt_losses(self) -> Tensor:
        """Agents whose loss in the last minibatch is not finite, bool ``[A]``."""
        _, losses, _ = self._minibatches[-1]
        return ~losses.isfinite()

    def masked(self) -> Tensor:
        """Agents taken out for their data, gradient or loss, bool ``[A]``."""
        _, losses, num_samples = (torch.stack(column) for column in zip(*self._minibatches, strict=True))
        return self.excluded | ((num_samples > 0) & ~losses.isfinite()).any(0)

    @property
    def nobody_left(self) -> bool:
        """Whether every agent of the last minibatch was masked."""
        return not bool(self._minibatches[-1][0].any())

    def report(
        self,
        metrics: Any,
        key: tuple[str, ...],
        *,
        returns: Tensor,
        reads_losses: bool,
        skipped: int,
        counts_here: bool,
    ) -> None:
        """Log the update; weights as means over its minibatches.

        :param metrics: The learner's MetricsLogger.
        :param key: Where.
        :param returns: Last known returns ``[A]``.
        :param reads_losses: Whether the rule weighs by loss, so that mixed signs matter.
        :param skipped: Steps left out.
        :param counts_here: Whether this learner reports counts that all learners share.
        """
        weights, losses, num_samples = (torch.stack(column) for column in zip(*self._minibatches, strict=True))
        took_part = num_samples > 0
        mixed = has_mixed_signs(losses.where(took_part, torch.nan)) if reads_losses else torch.zeros(1)
        metrics.log_dict(
            {
                "weight_min": weights.where(took_part, torch.inf).amin(-1).nan_to_num(posinf=0.0).mean().item(),
                "weight_max": weights.amax(-1).mean().item(),
                "effective_agents": (weights.sum(-1).square() / weights.square().sum(-1)).nan_to_num().mean().item(),
                "masked_agents": float((self.masked() | returns.isinf()).sum()),
            },
            key=key,
            window=1,
        )
        counts = {"mixed_sign_updates": int(mixed.sum()), SKIPPED_UPDATES: skipped}
        for name, value in counts.items():
            metrics.log_value((*key, name), value if counts_here else 0, reduce="lifetime_sum")
