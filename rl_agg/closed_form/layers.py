"""Linear layers with their activations. Axes: B samples, S layers at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rl_agg.closed_form.activations import Activation


class LinearLayer(NamedTuple):
    """A linear layer of a network, and the activation that follows it."""

    weight: nn.Parameter
    """``[out, in]``"""
    bias: nn.Parameter | None
    """``[out]``"""
    activation: Activation


class Dense:
    """Evaluates and differentiates a layer, or S layers at once, each with inputs of its own.

    Outputs and gradients are valid until the next call.

    :param weight: ``[out, in]`` or ``[S, out, in]``.
    :param bias: ``[out]`` or ``[S, out]``.
    :param weight_gradient: Where that of the weight is written; ``None``: it is not trained.
    :param bias_gradient: Where that of the bias is written.
    :param activation: Follows.
    """

    inputs: Tensor
    """``[B, in]`` or ``[S, B, in]``."""
    deltas: Tensor
    """The gradient with respect to what the linear layer returns, ``[B, out]`` or ``[S, B, out]``."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        weight_gradient: Tensor | None,
        bias_gradient: Tensor | None,
        activation: Activation,
    ) -> None:
        self.weight, self._transposed = weight, weight.mT
        self._bias = None if bias is None else bias.unsqueeze(-2)
        self.weight_gradient, self.bias_gradient = weight_gradient, bias_gradient
        self._activation = activation
        self._multiply = torch.mm if weight.ndim == 2 else torch.bmm
        self._multiply_add = torch.addmm if weight.ndim == 2 else torch.baddbmm
        self._outputs = self._of_inputs = weight.new_empty(0, 0)
        self._kept = self._outputs

    @property
    def is_trained(self) -> bool:
        """Whether it has parameters that are trained."""
        return self.weight_gradient is not None or self.bias_gradient is not None

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate.

        :param inputs: ``[B, in]`` or ``[S, B, in]``.
        :return: ``[B, out]`` or ``[S, B, out]``.
        """
        rows = inputs.shape[-2]
        if self._outputs.shape[-2] != rows:
            self._outputs = inputs.new_empty(*self.weight.shape[:-2], rows, self.weight.shape[-2])
        if self._bias is None:
            self._multiply(inputs, self._transposed, out=self._outputs)
        else:
            self._multiply_add(self._bias, inputs, self._transposed, out=self._outputs)
        self.inputs = inputs
        outputs, self._kept = self._activation.apply(self._outputs)
        return outputs

    def differentiate(self, gradient: Tensor) -> None:
        """Turn the gradient with respect to the outputs into :attr:`deltas`, in place."""
        self._activation.backward(gradient, self._kept)
        self.deltas = gradient

    def gradient_of_inputs(self, out: Tensor | None = None) -> Tensor:
        """The gradient with respect to the inputs.

        :param out: Where it is written; ``None``: memory of the layer's own.
        """
        if out is None:
            if self._of_inputs.shape[-2] != self.deltas.shape[-2]:
                self._of_inputs = self.deltas.new_empty(*self.deltas.shape[:-1], self.weight.shape[-1])
            out = self._of_inputs
        return self._multiply(self.deltas, self.weight, out=out)

    def write_gradients(self) -> None:
        """Write the parameters' gradients, summed over the samples."""
        if self.weight_gradient is not None:
            self._multiply(self.deltas.mT, self.inputs, out=self.weight_gradient)
        if self.bias_gradient is not None:
            torch.sum(self.deltas, -2, out=self.bias_gradient)
