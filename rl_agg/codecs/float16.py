"""Half precision."""

from dataclasses import dataclass

import torch

from rl_agg.codecs.halves import Halves


@dataclass(frozen=True)
class Float16(Halves):
    """Send every number as an IEEE half-precision float: 11 significant bits, magnitudes from 6e-8 to 65504."""

    dtype = torch.float16
