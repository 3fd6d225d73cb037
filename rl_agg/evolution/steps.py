r"""Steps as seeds and what they count for, so that whoever holds the parameters can take them. Axes: P parameters, S senders.

.. math:: \hat g = \frac{1}{A \sigma} \sum_{i \in S} f_i \, \epsilon_i, \qquad
    \theta \leftarrow \theta + \mathrm{Adam}(\hat g - \lambda \theta)

with noise :math:`\epsilon_i` drawn again from (run, update, i).

Source: Salimans et al. (2017), algorithm 2, where all workers reconstruct all perturbations from known random seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_agg.evolution.perturbations import Perturbations
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.population.reports import AGENT_ID
from rl_agg.population.server import OutOfStepError

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Step:
    """What decides about a step, where the parameters before it are known.

    :param update: In which the noise was drawn.
    :param senders: Whose noise counts ``[S]``.
    :param shares: How much each counts, f ``[S]``.
    :param num_present: A, agents whose episode was finite.
    """

    update: int
    senders: NDArray[np.uint16]
    shares: Vector
    num_present: int

    @classmethod
    def of(cls, update: int, senders: NDArray[np.integer], shares: NDArray[np.floating], num_present: int) -> Step:
        """In the precision that is sent."""
        return cls(update, senders.astype(AGENT_ID), shares.astype(np.float32), num_present)


class Taken(NamedTuple):
    """A step that was taken.

    :param theta: The parameters after it ``[P]``; the very array from before if none was taken, as its norm was not finite.
    :param gradient_norm: Of :math:`\\hat g`.
    :param step_norm: Of the change.
    """

    theta: Vector
    gradient_norm: float
    step_norm: float


def estimate(step: Step, size: int, settings: EvolutionSettings, run: int) -> Vector:
    """The gradient that a step is taken by ``[P]``, which ``size`` is the length of; arguments as of :func:`take`."""
    perturbations = Perturbations(run, size, antithetic=settings.antithetic)
    gradient = np.zeros(size, np.float32)
    for part, noise in perturbations.parts(step.update, step.senders):
        gradient += step.shares[part] @ noise
    gradient /= np.float32(step.num_present * settings.noise_stdev)
    return gradient


def move(gradient: Vector, theta: Vector, optimizer: Any, settings: EvolutionSettings) -> Taken:
    """Move the parameters by a gradient ``[P]``; arguments as of :func:`take`."""
    direction = gradient - np.float32(settings.l2_coeff) * theta
    norm = float(np.linalg.norm(gradient))
    if not np.isfinite(np.linalg.norm(direction)):  # Adam's squares would overflow, and stay so
        return Taken(theta, norm, 0.0)
    change = optimizer.step(direction)
    return Taken(theta + change, norm, float(np.linalg.norm(change)))


def take(step: Step, theta: Vector, optimizer: Any, settings: EvolutionSettings, run: int) -> Taken:
    """Take a step: the same numbers give the same parameters to the bit, wherever it is taken.

    :param theta: Parameters ``[P]``; left as they are.
    :param optimizer: Of these parameters; it steps too.
    :param settings: The server's.
    :param run: See :mod:`rl_agg.seeding`.
    """
    return move(estimate(step, theta.size, settings, run), theta, optimizer, settings)


class Follower:
    """Parameters of a worker, which takes the server's steps.

    :param settings: The server's.
    """

    def __init__(self, settings: EvolutionSettings) -> None:
        self._settings = settings
        self._line: int | None = None
        self._update = 0

    def begin(self, line: int, update: int, theta: Vector, optimizer: Mapping[str, Any]) -> None:
        """Hold the server's parameters.

        :param line: Names the server's sequence of steps.
        :param update: That they are of.
        :param theta: ``[P]``.
        :param optimizer: State of the server's.
        """
        self._line, self._update, self._theta = line, update, theta
        self._optimizer = self._settings.make_optimizer(theta.size)
        self._optimizer.load_state_dict(dict(optimizer))

    def follow(self, line: int, update: int, step: Step | None, run: int) -> Vector:
        """Parameters of an update ``[P]``.

        :param line: As of :meth:`begin`.
        :param update: Of the parameters: the same as before, or the next.
        :param step: That leads to it; ``None``: none was taken.
        :param run: See :mod:`rl_agg.seeding`.
        :raises OutOfStepError: if these are parameters of another update, or another server's.
        """
        if self._line != line or self._update not in (update, update - 1):
            raise OutOfStepError(f"the parameters are not those of update {update - 1}")
        if self._update != update:
            if step is not None:
                self._theta = take(step, self._theta, self._optimizer, self._settings, run).theta
            self._update = update
        return self._theta
