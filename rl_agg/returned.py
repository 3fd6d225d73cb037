"""What members of a user's own return, which need not be what their interface says."""

import reprlib
from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_foreign(member: object) -> bool:
    """Whether a member of an axis is of a user's own."""
    return type(member).__module__.partition(".")[0] != "rl_agg"


def tensor_of(returned: Any, like: Tensor) -> Tensor | None:
    """A tensor, an array or a sequence of real numbers as a detached tensor; ``None`` for anything else.

    :param like: The device of what is not a tensor yet.
    """
    if isinstance(returned, Tensor):
        return None if returned.is_complex() else returned.detach()
    try:  # a copy, as an array's owner may write to it, and without negative strides
        tensor = torch.tensor(returned.copy() if isinstance(returned, np.ndarray) else returned, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if tensor.is_complex() else tensor


def described(returned: Any) -> str:
    """What was returned, for the end of a message."""
    if hasattr(returned, "shape"):
        return f"shape {tuple(returned.shape)}, {getattr(returned, 'dtype', type(returned).__name__)}"
    length = f"{type(returned).__name__} of {len(returned)}: " if isinstance(returned, list | tuple) else ""
    return length + reprlib.repr(returned)
