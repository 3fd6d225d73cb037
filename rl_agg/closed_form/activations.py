"""Activations and their derivatives, written over their arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation in two functions.

    :param apply: Takes what a linear layer returns and may overwrite it; returns the outputs, and what ``backward`` needs.
    :param backward: Turns the gradient with respect to the outputs, its first argument, into that with respect to the inputs,
        in place. Its second argument is what ``apply`` kept.
    """

    apply: Callable[[Tensor], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor], object]


def activation_of(module: nn.Module) -> Activation | None:
    """The activation that a module computes; ``None`` if it is none of those known here."""
    make = _ACTIVATIONS.get(type(module))
    return None if make is None else make(module)


def _of_output(apply: Callable[[Tensor], object], backward: Callable[[Tensor, Tensor], object]) -> Activation:
    """An activation whose derivative follows from its outputs, so that these replace its inputs."""

    def overwrite(inputs: Tensor) -> tuple[Tensor, Tensor]:
        apply(inputs)
        return inputs, inputs

    return Activation(overwrite, backward)


def _tanh(inputs: Tensor) -> None:
    if inputs.device.type == "cpu" and inputs.dtype in (torch.float32, torch.float64):
        values = inputs.numpy()
        np.tanh(values, out=values)  # several times as fast as torch's
    else:
        inputs.tanh_()


IDENTITY = _of_output(lambda inputs: None, lambda gradient, outputs: None)
TANH = _of_output(_tanh, lambda gradient, outputs: aten.tanh_backward.grad_input(gradient, outputs, grad_input=gradient))
SIGMOID = _of_output(
    Tensor.sigmoid_, lambda gradient, outputs: aten.sigmoid_backward.grad_input(gradient, outputs, grad_input=gradient)
)
RELU = _of_output(
    Tensor.relu_, lambda gradient, outputs: aten.threshold_backward.grad_input(gradient, outputs, 0, grad_input=gradient)
)
SILU = Activation(
    lambda inputs: (nn.functional.silu(inputs), inputs),
    lambda gradient, inputs: aten.silu_backward.grad_input(gradient, inputs, grad_input=gradient),
)


@cache
def _elu(alpha: float) -> Activation:
    return _of_output(
        lambda inputs: nn.functional.elu_(inputs, alpha),
        lambda gradient, outputs: aten.elu_backward.grad_input(gradient, alpha, 1, 1, True, outputs, grad_input=gradient),
    )


_ACTIVATIONS: dict[type, Callable[..., Activation]] = {
    nn.Identity: lambda module: IDENTITY,
    nn.Tanh: lambda module: TANH,
    nn.Sigmoid: lambda module: SIGMOID,
    nn.ReLU: lambda module: RELU,
    nn.SiLU: lambda module: SILU,
    nn.ELU: lambda module: _elu(module.alpha),
}
