"""Three values. Axes: S agents that send, P numbers that each sends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_agg.codecs.base import Encoded, RandomCodec
from rl_agg.codecs.draws import Draws
from rl_agg.codecs.identity import BITS
from rl_agg.codecs.rounding import round_at_random


@dataclass(frozen=True)
class Ternary(RandomCodec):
    r"""Send :math:`m \cdot \mathrm{sign}(x_i)` with probability :math:`|x_i| / m`, and 0 otherwise, :math:`m = \max_i |x_i|`.

    Unbiased. Size: :math:`8 \lceil P / 5 \rceil + 32` bits, five numbers to a byte, as :math:`3^5 \le 2^8`.

    Source: Wen et al. (2017), TernGrad, equation 1. Differs: one scale for each message, not for each layer; nothing is
    clipped; with error feedback, the scale is the mean magnitude of what is not sent as 0.
    """

    def encode(self, rows: Tensor, draws: Draws) -> Encoded:
        """A fifth of a byte a number, and a float32."""
        decoded, _ = round_at_random(rows, rows.abs().amax(1, keepdim=True), 1, draws)
        return Encoded(decoded, torch.full((len(rows),), 8 * -(-rows.shape[1] // 5) + BITS))
