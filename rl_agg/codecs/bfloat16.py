"""The upper half of a float32."""

from dataclasses import dataclass

import torch

from rl_agg.codecs.halves import Halves


@dataclass(frozen=True)
class BFloat16(Halves):
    """Send every number as a bfloat16: 8 significant bits, and the range of a float32."""

    dtype = torch.bfloat16
