"""Sending few of the numbers. Axes: S agents that send, P numbers of each, K of them that it sends."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rl_agg.byte_budget import Knob
from rl_agg.codecs.base import Codec, Encoded, Encoder
from rl_agg.codecs.draws import Draws
from rl_agg.codecs.identity import Identity
from rl_agg.validation import check_count, check_number

FRACTION = 0.01
"""Of the numbers that are sent where neither setting says."""

LEAST_FRACTION = 1e-7
"""Of a budget: one number is sent in any case."""


@dataclass(frozen=True)
class Sparse(Codec):
    """Send some of the numbers, as float32 or by another codec; the others are decoded as 0.

    :param fraction: K / P, in (0, 1], rounded to the nearest K >= 1; ``None``: 0.01.
    :param number: K >= 1 in place of it, and no more than P.
    :raises ValueError: if both are given, or one is out of its bounds.
    """

    fraction: float | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        if self.fraction is not None and self.number is not None:
            raise ValueError(f"give fraction or number, got fraction={self.fraction!r} and number={self.number!r}")
        if self.fraction is not None:
            check_number("fraction", self.fraction, above=0, most=1)
        if self.number is not None:
            check_count("number", self.number, least=1)

    def count(self, size: int) -> int:
        """K of P numbers."""
        if self.number is not None:
            return min(self.number, size)
        return max(1, round((FRACTION if self.fraction is None else self.fraction) * size))

    @property
    def knob(self) -> Knob | None:
        """``fraction``, unless K is given."""
        if self.number is not None:
            return None
        value = FRACTION if self.fraction is None else self.fraction
        return Knob("fraction", value, least=LEAST_FRACTION, most=1.0, sends_more=True)

    def turned(self, value: float) -> Sparse:
        """With another fraction."""
        return replace(self, fraction=value)

    @abstractmethod
    def choose(self, rows: Tensor, count: int, draws: Draws) -> Tensor:
        """Places of the numbers that are sent ``[S, K]``, each once."""

    def place_bits(self, count: int, size: int) -> int:
        """What the places of ``count`` of ``size`` numbers take."""
        return 0

    def factor(self, count: int, size: int, draws: Draws) -> float:
        """What the numbers that were sent are multiplied by."""
        return 1.0

    def __call__(self, rows: Tensor) -> Encoded:
        """As in the first exchange of run 0."""
        return self.at(Draws())(rows)

    def at(self, draws: Draws) -> Encoder:
        """The numbers as float32."""
        return self.around(Identity(), draws)

    def around(self, encode: Encoder, draws: Draws) -> Encoder:
        """The numbers by another codec.

        :param encode: Encodes what was chosen ``[S, K]``.
        :param draws: Random numbers of the exchange.
        """

        def encode_some(rows: Tensor) -> Encoded:
            size, count = rows.shape[1], self.count(rows.shape[1])
            places = self.choose(rows, count, draws)
            chosen = encode(rows.gather(1, places) + 0 * rows.sum(1, keepdim=True))  # rows that are not finite stay so
            decoded = torch.zeros_like(rows).scatter_(1, places, chosen.decoded * self.factor(count, size, draws))
            return Encoded(decoded, chosen.bits + self.place_bits(count, size))

        return encode_some
