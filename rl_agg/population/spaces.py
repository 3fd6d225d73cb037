"""Conversions between an environment's spaces and a network's numbers. Axes: k agents, D observation numbers, M outputs."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_number

Array = NDArray[np.float32]


class ObservationEncoder:
    """Observations as rows of numbers: boxes flattened, discrete ones one-hot.

    :param space: A Box or Discrete.
    :raises ValueError: for any other space.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.is_discrete = isinstance(space, gym.spaces.Discrete)
        if isinstance(space, gym.spaces.Discrete):
            self.size = int(space.n)
            self._start = int(space.start)
        elif isinstance(space, gym.spaces.Box):
            self.size = int(np.prod(space.shape))
        else:
            raise ValueError(
                f"observations must be a Box or Discrete, got {space}; wrap it: gymnasium.wrappers.FlattenObservation"
            )

    def __call__(self, observations: Sequence[Any] | NDArray[Any]) -> Array:
        """Encode a batch ``[k, ...]`` as ``[k, D]``."""
        if self.is_discrete:
            rows = np.zeros((len(observations), self.size), dtype=np.float32)
            rows[np.arange(len(observations)), np.asarray(observations, dtype=np.int64) - self._start] = 1.0
            return rows
        return np.asarray(observations, dtype=np.float32).reshape(len(observations), self.size)


def check_first_action(space: "gym.spaces.Discrete[Any]") -> None:
    """Raise if actions do not begin at 0, because other users of the trained network, as RLlib, count from there.

    :raises ValueError: naming the remedy.
    """
    if space.start:
        raise ValueError(
            f"actions must begin at 0, got {space}; wrap the environment: gymnasium.wrappers.TransformAction(env, "
            f"lambda action: action + {space.start}, gymnasium.spaces.Discrete({space.n}))"
        )


class ActionDecoder:
    """Network outputs as actions: for Discrete the index of the largest, for a Box the outputs themselves.

    As in RLlib, [-1, 1] is mapped to a bounded Box of floats unless ``normalize`` is off, and actions are clipped to it.

    :param space: A Box of floats or Discrete.
    :param normalize: Whether [-1, 1] is mapped to the range of a bounded Box.
    :param noise_stdev: Standard deviation >= 0 of the Gaussian noise on a Box's outputs where actions are sampled.
    :raises ValueError: for any other space, a Discrete one that does not begin at 0, or a negative deviation.
    """

    def __init__(self, space: gym.Space[Any], *, normalize: bool = True, noise_stdev: float = 0.1) -> None:
        check_number("action_noise_stdev", noise_stdev, least=0)
        self._noise_stdev = np.float32(noise_stdev)
        self.is_discrete = isinstance(space, gym.spaces.Discrete)
        if isinstance(space, gym.spaces.Discrete):
            check_first_action(space)
            self.size = int(space.n)
        elif isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.size = int(np.prod(space.shape))
            self._shape, self._dtype = space.shape, space.dtype
            self._low, self._high = space.low.reshape(-1), space.high.reshape(-1)
            self._spans = normalize and bool(space.is_bounded("both"))
        else:
            raise ValueError(f"actions must be a Box of floats or Discrete, got {space}")

    def noise(self, generator: np.random.Generator, num_steps: int) -> Array:
        """Noise that turns the choice into a sample ``[num_steps, M]``: with Gumbel noise the largest output is a sample of
        the softmax."""
        if self.is_discrete:
            return generator.gumbel(size=(num_steps, self.size)).astype(np.float32)
        return self._noise_stdev * generator.standard_normal((num_steps, self.size), dtype=np.float32)

    def __call__(self, outputs: Array) -> NDArray[Any]:
        """Actions ``[k, ...]`` for outputs ``[k, M]``."""
        if self.is_discrete:
            chosen: NDArray[np.int64] = outputs.argmax(axis=1)
            return chosen
        if self._spans:
            outputs = self._low + (outputs + 1) * ((self._high - self._low) / 2)
        clipped = np.clip(outputs, self._low, self._high).astype(self._dtype)
        actions: NDArray[Any] = clipped.reshape(len(outputs), *self._shape)
        return actions
