"""What an optimiser makes of a gradient. Axis P: parameters."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def step_scale(optimizer: Any, parameters: Sequence[Tensor]) -> Tensor | None:
    r"""What an optimiser multiplies each parameter's gradient by, up to one factor for all.

    :math:`1 / (\sqrt{v} + \epsilon)` with :math:`v` the running mean square of gradients that Adam, AdamW and RMSprop keep,
    its largest so far with ``amsgrad``, their variance with ``centered``, or Adagrad's sum of squares;
    :math:`1 / \sqrt{v + \epsilon}` for Stable-Baselines3's RMSpropTFLike.

    :param optimizer: The optimiser.
    :param parameters: Those of it that are asked about, with P elements in all.
    :return: ``[P]``; ``None`` where it treats all parameters alike, has not taken a step yet, or is not one of torch's.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        return None
    (group, *_) = optimizer.param_groups
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    names = ("max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq", "square_avg", "sum")
    squares: list[Tensor] = [state[name] for state in states for name in names if name in state]
    if len(squares) < len(states):
        return None
    if group.get("centered"):
        squares = [(square - state["grad_avg"].square()).clamp(min=0.0) for square, state in zip(squares, states, strict=True)]
    flat = torch.cat([square.flatten() for square in squares])
    if "betas" in group:  # Adam starts from 0
        seen = [1.0 - group["betas"][1] ** float(state["step"]) for state in states]
        if len(set(seen)) == 1:
            flat /= seen[0]
        else:
            for part, known in zip(torch.split(flat, [square.numel() for square in squares]), seen, strict=True):
                part /= known
    if type(optimizer).__name__ == "RMSpropTFLike":
        return flat.add_(group["eps"]).rsqrt_()
    return flat.sqrt_().add_(group["eps"]).reciprocal_()


def moments_of(optimizers: Iterable[torch.optim.Optimizer], parameters: Sequence[Tensor]) -> list[Tensor]:
    """What optimisers remember of the gradients of parameters, and their step counts; zeros if one has made no step yet.

    :param optimizers: Of torch's.
    :param parameters: Those that are asked about; an optimiser remembers nothing of others' parameters.
    """
    moments: list[Tensor] = []
    for optimizer in optimizers:
        if not optimizer.state:
            _start(optimizer)
        values = [value for own in parameters if own in optimizer.state for value in optimizer.state[own].values()]
        moments += [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    return moments


def forget_moments(optimizers: Iterable[torch.optim.Optimizer], parameters: Sequence[Tensor]) -> None:
    """Let optimisers start afresh with parameters.

    :param optimizers: As for :func:`moments_of`, as are the parameters.
    """
    for optimizer in optimizers:
        for own in parameters:
            optimizer.state.pop(own, None)


def _start(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimiser that has made no step yet the moments that it starts from: zeros, in the shapes of the others'."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad]
    rates, gradients = [group["lr"] for group in optimizer.param_groups], [parameter.grad for parameter in parameters]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # of length 0: the only way to have any optimiser make its state
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor):
                value.zero_()


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Let torch's plain Adam or AdamW step with its fused kernel, where there is one and no other was chosen.

    :param optimizer: However its groups are made; anything but these two is left as it is.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return
    device = next(parameter for group in optimizer.param_groups for parameter in group["params"]).device
    if device.type not in ("cpu", "cuda"):
        return
    for group in (optimizer.defaults, *optimizer.param_groups):
        if group["fused"] is None and group["foreach"] is None and not (group["capturable"] or group["differentiable"]):
            group["fused"] = True
