"""Masking and the rule: many vectors that the server has become one. Axes: A agents, P numbers that each exchanges.

Vectors may also be factors of gradients, which are merged by their distances without being multiplied out.
"""

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rl_agg.combiners import Combiner
from rl_agg.combiners.distances import distances_of
from rl_agg.payloads.averaging import average
from rl_agg.signals import Signals
from rl_agg.uplink import Received
from rl_agg.weighting import Weighting


@dataclass(frozen=True, slots=True)
class Merged:
    """One vector out of many.

    :param vector: ``[P]``. If no agent counts: zeros, or the reference where parameters are exchanged.
    :param sends: Who sent something ``[A]``, bool.
    :param present: Whose vector counts ``[A]``, bool; an idle agent's gradient counts as zero.
    :param weights: How much each counts ``[A]``; ``None`` where a combiner decides.
    :param masked: Who was left out because its vector or a signal is not finite, or was not present at all ``[A]``, bool.
    """

    vector: Tensor
    sends: Tensor
    present: Tensor
    weights: Tensor | None
    masked: Tensor


class Factored(Protocol):
    """Gradients that need not be multiplied out to be weighed by their distances."""

    def products(self) -> Tensor | None:
        """Of any two of them ``[A, A]``; ``None`` where it is less work to multiply them out."""

    def weighted(self, weights: Tensor) -> Tensor:
        """Their sum ``[P]``, each times its weight ``[A]``."""

    def matrix(self, *, by_parameter: bool) -> Tensor:
        """All of them ``[A, P]``.

        :param by_parameter: Whether a parameter's gradients should be adjacent in memory.
        """


def merge_received(
    rule: Weighting | Combiner,
    received: Received,
    signals: Signals,
    *,
    present: Tensor,
    idle: Tensor | None,
    as_shares: bool,
    step: int,
    overwrite: bool,
) -> Merged:
    """Merge what the server has.

    :param rule: Weighs or combines.
    :param received: What the server has of each agent.
    :param signals: What agents report, each ``[A]``.
    :param present: Whose vector is finite ``[A]``, bool; a combiner knows how many are not.
    :param idle: Who has no vector without being at fault ``[A]``, bool: a weighted sum counts zero for it, a combiner does
        not see it.
    :param as_shares: Whether weights are divided by their sum, and idle agents left out.
    :param step: As for :meth:`Combiner.__call__`.
    :param overwrite: Whether the vectors may be changed.
    :raises ValueError: if shares are asked for, and weights are negative or sum to 0.
    """
    rows, counts, masked = received.vectors, received.counts, ~present
    there = counts if idle is None or as_shares else counts | (present & idle)
    if isinstance(rule, Combiner):
        seen = counts | masked
        if not bool(seen.all()):
            rows, present = rows[seen], present[seen]
        vector = rule(rows, present=present, step=step, overwrite=overwrite) if len(rows) else rows.new_zeros(rows.shape[1])
        return Merged(vector, received.sends, there, None, masked)
    weights = rule(dataclasses.replace(signals, present=there))
    if as_shares and bool(there.any()):
        shares = _shares(weights)
        rows, kept = (rows, shares) if bool(there.all()) else (rows[there], shares[there])
        return Merged(average(rows, kept), received.sends, there, shares.to(rows), masked)
    weights = weights.to(rows)
    if not bool(counts.all()):
        rows = torch.where(counts[:, None], rows, 0.0)  # 0 * NaN is NaN
    # Where nothing is to be multiplied, adding alone is exact
    vector = rows.sum(0) if bool((weights == 1).all()) else weights @ rows
    return Merged(vector, received.sends, there, weights, masked)


def merge_factored(combiner: Combiner, gradients: Factored) -> Tensor | None:
    """Merge gradients by their distances.

    :param combiner: One for a step, see :meth:`Combiner.at`.
    :param gradients: Of agents that are all present.
    :return: ``[P]``; ``None`` if the combiner has to see the gradients.
    """
    products = gradients.products() if combiner.by_distance else None
    distances = None if products is None else distances_of(products)
    weights = None if distances is None else combiner.weigh(distances, num_masked=0)
    return None if weights is None else gradients.weighted(weights)


def _shares(weights: Tensor) -> Tensor:
    total = weights.sum()
    if bool((weights < 0).any()) or not bool(total > 0):
        raise ValueError(f"parameters are averaged with weights >= 0 of positive sum, got {weights.tolist()}")
    return weights / total
