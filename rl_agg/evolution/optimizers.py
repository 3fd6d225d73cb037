"""Optimizers that maximise, in single precision. Axis P: parameters.

torch.optim's Adam rounds differently, and would change the numbers of every recorded run.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_number

Vector = NDArray[np.float32]


class SGD:
    r"""Plain, or with momentum: :math:`v \leftarrow \mu v + g`, :math:`\theta \leftarrow \theta + \alpha v`.

    :param num_parameters: P.
    :param lr: :math:`\alpha` > 0.
    :param momentum: :math:`\mu` in [0, 1).
    :raises ValueError: if a setting is out of range.
    """

    def __init__(self, num_parameters: int, lr: float, *, momentum: float = 0.0) -> None:
        check_number("lr", lr, above=0)
        check_number("momentum", momentum, least=0, below=1)
        self.lr, self.momentum = lr, momentum
        self._velocity = np.zeros(num_parameters, dtype=np.float32)

    def step(self, gradient: Vector) -> Vector:
        """The change of the parameters ``[P]`` for a gradient ``[P]``."""
        self._velocity = np.float32(self.momentum) * self._velocity + gradient
        return np.float32(self.lr) * self._velocity

    def state_dict(self) -> dict[str, Any]:
        """The velocity."""
        return {"velocity": self._velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._velocity = state["velocity"].copy()


class Adam:
    """Adam.

    :param num_parameters: P.
    :param lr: Step size > 0.
    :param beta1: Decay of the mean of gradients, in [0, 1).
    :param beta2: Decay of the mean of squared gradients, in [0, 1).
    :param epsilon: > 0.
    :raises ValueError: if a setting is out of range.

    Source: Kingma and Ba (2015), algorithm 1.
    """

    def __init__(
        self, num_parameters: int, lr: float, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        check_number("lr", lr, above=0)
        check_number("beta1", beta1, least=0, below=1)
        check_number("beta2", beta2, least=0, below=1)
        check_number("epsilon", epsilon, above=0)
        self.lr, self.beta1, self.beta2, self.epsilon = lr, beta1, beta2, epsilon
        self._mean, self._square = np.zeros((2, num_parameters), dtype=np.float32)
        self._num_steps = 0

    def step(self, gradient: Vector) -> Vector:
        """The change of the parameters ``[P]`` for a gradient ``[P]``."""
        self._num_steps += 1
        self._mean += np.float32(1 - self.beta1) * (gradient - self._mean)
        self._square += np.float32(1 - self.beta2) * (gradient * gradient - self._square)
        size = np.float32(self.lr / (1 - self.beta1**self._num_steps))
        scale = np.float32(1 / math.sqrt(1 - self.beta2**self._num_steps))
        return size * self._mean / (scale * np.sqrt(self._square) + np.float32(self.epsilon))

    def state_dict(self) -> dict[str, Any]:
        """Both means and the number of steps."""
        return {"mean": self._mean, "square": self._square, "num_steps": self._num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._mean, self._square = state["mean"].copy(), state["square"].copy()
        self._num_steps = state["num_steps"]


OPTIMIZERS: dict[str, Callable[..., SGD | Adam]] = {"adam": Adam, "sgd": SGD, "momentum": partial(SGD, momentum=0.9)}
"""Optimizers by name."""
