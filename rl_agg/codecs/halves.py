"""Floats of 16 bits. Axes: S agents that send, P numbers that each sends."""

from typing import ClassVar

import torch
from torch import Tensor

from rl_agg.codecs.base import Codec, Encoded


class Halves(Codec):
    """Send every number as a float of 16 bits. Finite numbers beyond the largest become the largest of their sign."""

    dtype: ClassVar[torch.dtype]

    def __call__(self, rows: Tensor) -> Encoded:
        """Round to the nearest, 16 bits a number."""
        largest = torch.finfo(self.dtype).max
        fits = bool((rows.abs() <= largest).all())  # as nearly always, and then nothing is copied
        bounded = rows if fits else torch.where(rows.isfinite(), rows.clamp(-largest, largest), rows)
        bits = torch.full((len(rows),), 16 * rows.shape[1], dtype=torch.int64)
        return Encoded(bounded.to(self.dtype).to(rows.dtype), bits)
