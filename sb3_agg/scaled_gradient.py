"""Outputs of a network whose gradient is scaled sample by sample. Axis B: samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


class ScaledGradient(torch.autograd.Function):
    """Identity forwards; backwards, the gradients of all outputs are scaled at once.

    ``ScaledGradient.apply(scale, *outputs)``: ``scale`` takes the gradients ``[B, ...]`` and returns them scaled.
    """

    @staticmethod
    def forward(ctx: Any, scale: Callable[[Gradients], Gradients], *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.scale = scale
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Gradients:
        return (None, *ctx.scale(gradients))


def shaped(per_sample: Tensor, gradient: Tensor) -> Tensor:
    """One value per sample ``[B]`` in a shape that multiplies a gradient ``[B, ...]``."""
    return per_sample if gradient.ndim == 1 else per_sample.view(-1, *[1] * (gradient.ndim - 1))
