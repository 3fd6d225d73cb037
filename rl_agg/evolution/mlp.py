"""Many small networks at once, each with its own weights, in one matrix product per layer. Axes: B networks, P parameters."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_choice

Array = NDArray[np.float32]


def _sigmoid(x: Array) -> Array:
    return np.float32(1) / (np.float32(1) + np.exp(-x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "silu": lambda x: x * _sigmoid(x),
    "linear": lambda x: x,
}
"""Activations by RLlib's names."""


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron whose parameters are one vector: for each layer the weights ``[out, in]``, then the biases.

    :param sizes: Inputs, hidden layers, outputs.
    :param activation: A name from :data:`ACTIVATIONS`, after each hidden layer.
    :raises ValueError: if a size is not positive or the activation is unknown.
    """

    sizes: tuple[int, ...]
    activation: str = "tanh"

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes must be at least two positive numbers, got {self.sizes}")
        check_choice("activation", self.activation, ACTIVATIONS)

    @property
    def num_parameters(self) -> int:
        """P."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.layers)

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer."""
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    def initial(self, generator: np.random.Generator) -> Array:
        """Initial parameters ``[P]``: Gaussian weights of variance 1/in, as LeCun's and Flax's default, and biases 0."""
        parts = []
        for inputs, outputs in self.layers:
            parts.append(generator.standard_normal(inputs * outputs, dtype=np.float32) / np.float32(math.sqrt(inputs)))
            parts.append(np.zeros(outputs, dtype=np.float32))
        return np.concatenate(parts)

    def stack(self, parameters: Array) -> list[tuple[Array, Array]]:
        """Views of the parameters ``[B, P]`` as weights ``[B, out, in]`` and biases ``[B, out]`` of each layer."""
        stacked, end = [], 0
        for inputs, outputs in self.layers:
            start, middle, end = end, end + inputs * outputs, end + (inputs + 1) * outputs
            weights = parameters[:, start:middle].reshape(len(parameters), outputs, inputs)
            stacked.append((weights, parameters[:, middle:end]))
        return stacked

    def forward(self, stacked: Sequence[tuple[Array, Array]], inputs: Array) -> Array:
        """Apply each network to its own row of inputs ``[B, in]``.

        :return: ``[B, out]``; a row does not depend on the others, to the bit.
        """
        activate = ACTIVATIONS[self.activation]
        values = inputs
        for weights, biases in stacked[:-1]:
            values = activate(np.matmul(weights, values[:, :, None])[:, :, 0] + biases)
        weights, biases = stacked[-1]
        outputs: Array = np.matmul(weights, values[:, :, None])[:, :, 0] + biases
        return outputs
