"""One bit a number. Axes: S agents that send, P numbers that each sends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_agg.codecs.base import Codec, Encoded
from rl_agg.codecs.identity import BITS


@dataclass(frozen=True)
class Sign(Codec):
    r"""Send signs, and the mean magnitude as their scale: :math:`\lVert x \rVert_1 / P \cdot \mathrm{sign}(x)`.

    The scale is the one that brings the signs nearest to :math:`x`; 0 counts as positive. Size: P + 32 bits.

    Source: Seide et al. (2014), 1-bit stochastic gradient descent; Bernstein et al. (2018), signSGD. Differs: one scale for
    each message, where the first has one for each column and the second none.
    """

    def __call__(self, rows: Tensor) -> Encoded:
        """A bit a number, and a float32."""
        scale = rows.abs().mean(1, keepdim=True)
        return Encoded(torch.where(rows >= 0, scale, -scale), torch.full((len(rows),), rows.shape[1] + BITS))
