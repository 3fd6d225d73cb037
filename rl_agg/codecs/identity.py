"""No compression. Axes: S agents that send, P numbers that each sends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_agg.codecs.base import Codec, Encoded
from rl_agg.payloads.base import CONTENTS

BITS = 32
"""Canonical size of a number, whatever precision a host computes with."""


@dataclass(frozen=True)
class Identity(Codec):
    """Send every number as a float32."""

    payloads = frozenset(CONTENTS)
    lossy = False

    def __call__(self, rows: Tensor) -> Encoded:
        """The rows themselves, 32 bits a number."""
        return Encoded(rows, torch.full((len(rows),), BITS * rows.shape[1], dtype=torch.int64))
