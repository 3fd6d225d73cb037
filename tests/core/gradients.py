"""Gradients to combine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rl_agg import COMBINERS

NAMES = sorted(COMBINERS)
AGENTS = st.integers(5, 9)  # krum bears one faulty agent among five

numbers = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))
LARGE = float(np.float32(1e30))
anything = st.floats(-LARGE, LARGE, allow_nan=False, allow_subnormal=False, width=32)  # thirds of which round to nothing


@st.composite
def matrices(draw: Any, num_agents: st.SearchStrategy[int] = AGENTS, elements: Any = numbers) -> torch.Tensor:
    shape = draw(num_agents), draw(st.integers(1, 5))
    return torch.from_numpy(draw(arrays(np.float64, shape, elements=elements)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
