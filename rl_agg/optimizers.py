"""What an optimiser makes of a gradient. Axis P: parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def step_scale(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Tensor | None:
    r"""What an optimiser multiplies each parameter's gradient by, up to one factor for all.

    :math:`1 / (\sqrt{v} + \epsilon)` with :math:`v` the running mean square of gradients that Adam, AdamW and RMSprop keep.

    :param optimizer: The optimiser.
    :param parameters: Those of it that are asked about, with P elements in all.
    :return: ``[P]``; ``None`` where it treats all parameters alike, or has not taken a step yet.
    """
    (group, *_) = optimizer.param_groups
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    squares = [state.get("exp_avg_sq", state.get("square_avg")) for state in states]
    if any(square is None for square in squares):
        return None
    roots = []
    for state, square in zip(states, squares, strict=True):
        seen = 1.0 - group["betas"][1] ** float(state["step"]) if "betas" in group else 1.0  # Adam starts from 0
        roots.append((square / seen).sqrt().flatten() + group["eps"])
    return 1.0 / torch.cat(roots)
