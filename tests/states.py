"""States of servers and exchanges, to compare them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def as_arrays(state: Any) -> Any:
    """Replace tensors by arrays, which ``np.testing.assert_equal`` compares."""
    if isinstance(state, Mapping):
        return {name: as_arrays(value) for name, value in state.items()}
    return state.numpy() if isinstance(state, Tensor) else state
