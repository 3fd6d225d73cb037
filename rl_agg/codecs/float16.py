"""Half precision. Axes: S agents that send, P numbers that each sends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_agg.codecs.base import Codec, Encoded

LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Float16(Codec):
    """Send every number as an IEEE half-precision float: 11 significant bits, up to 65504.

    Finite numbers beyond that become the largest of their sign.
    """

    def __call__(self, rows: Tensor) -> Encoded:
        """Round to the nearest, 16 bits a number."""
        fits = bool((rows.abs() <= LARGEST).all())  # as nearly always, and then nothing is copied
        bounded = rows if fits else torch.where(rows.isfinite(), rows.clamp(-LARGEST, LARGEST), rows)
        return Encoded(bounded.half().to(rows.dtype), torch.full((len(rows),), 16 * rows.shape[1], dtype=torch.int64))
