r"""Samples of earlier updates used again, by their likelihood ratio. Axes: A agents, P parameters.

The agents of update u ran :math:`x_i = \theta_u + \sigma \epsilon_i`. Seen from the present :math:`\theta` their noise is
:math:`\epsilon_i + \delta`, and they are as likely as

.. math:: \delta = \frac{\theta_u - \theta}{\sigma}, \qquad
    \rho_i = \frac{N(x_i; \theta, \sigma^2 I)}{N(x_i; \theta_u, \sigma^2 I)}
    = e^{-\epsilon_i \cdot \delta - \frac{1}{2} \lVert \delta \rVert^2}, \qquad
    \bar\rho_i = \frac{\rho_i}{\sum_j \rho_j}

From each earlier update comes an estimate of the gradient, and the present one and these are averaged by their effective
numbers of samples,

.. math:: \hat g_u = \frac{1}{\sigma} \sum_i \bar\rho_i \, f_i \, (\epsilon_i + \delta), \qquad
    n_u = \frac{1}{\sum_i \bar\rho_i^2}, \qquad
    \hat g = \frac{A \hat g_k + \sum_u n_u \hat g_u}{A + \sum_u n_u}

without the updates whose :math:`n_u` is below a share of A: ratios vary more the further the parameters have gone, by
:math:`e^{\lVert \delta \rVert^2}`.

Source: Campos, Giro-i-Nieto and Torres (2018), Importance Weighted Evolution Strategies, for the ratio. Differs: the paper
takes several steps with the samples of one update; here each step has samples of its own, and earlier ones. The guard, and the
average by effective numbers (Kong, 1992), are chosen here.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.evolution.perturbations import Perturbations

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Samples:
    """What the server had in one update.

    :param update: Its number.
    :param theta: Its parameters ``[P]``.
    :param returns: Sent or imputed ``[A]``; NaN where nothing is known.
    :param sends: Who sent a message ``[A]``, bool.
    :param present: Whose episode was finite ``[A]``, bool.
    """

    update: int
    theta: NDArray[np.float32]
    returns: Floats
    sends: NDArray[np.bool_]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Reweighted:
    """Samples as they count at the present parameters.

    :param samples: As they were.
    :param shift: delta ``[P]``.
    :param shares: The normalised ratios ``[A]``, 0 where no episode was finite.
    :param number: n_u, the effective number of samples.
    """

    samples: Samples
    shift: NDArray[np.float32]
    shares: Floats
    number: float


class SampleReuse:
    """Remembers the samples of the last updates.

    :param num_updates: Of how many.
    :param threshold: Least effective number, as a share of the samples, in (0, 1].
    :param noise_stdev: sigma.
    :param antithetic: See :class:`~rl_agg.evolution.perturbations.Perturbations`.
    """

    def __init__(self, num_updates: int, threshold: float, *, noise_stdev: float, antithetic: bool) -> None:
        self._threshold, self._noise_stdev = threshold, noise_stdev
        self._drawn_by = {"noise_stdev": noise_stdev, "antithetic": antithetic}
        self._remembered: deque[Samples] = deque(maxlen=num_updates)

    def add(self, samples: Samples) -> None:
        """Remember the samples of an update, and forget those of the first."""
        self._remembered.append(samples)

    def usable(self, theta: NDArray[np.float32], perturbations: Perturbations) -> Iterator[Reweighted]:
        """Samples whose effective number is large enough, the earliest first.

        :param theta: The present parameters ``[P]``.
        :param perturbations: Draws their noise again.
        """
        for samples in self._remembered:
            shift = (samples.theta - theta) / np.float32(self._noise_stdev)
            agents = np.flatnonzero(samples.present)
            logs = np.empty(len(agents))  # of the ratios; what all have in common is left out
            for part, noise in perturbations.parts(samples.update, agents):
                logs[part] = -(noise @ shift).astype(np.float64)
            ratios = np.exp(logs - logs.max())
            shares = np.zeros(len(samples.present))
            shares[agents] = ratios / ratios.sum()
            number = float(1 / np.square(shares).sum())
            if number >= self._threshold * len(agents):
                yield Reweighted(samples, shift, shares, number)

    def average(
        self,
        gradient: NDArray[np.float32],
        number: int,
        earlier: Sequence[Reweighted],
        weights: Sequence[Floats],
        perturbations: Perturbations,
    ) -> NDArray[np.float32]:
        """The average of the present estimate and those from earlier updates ``[P]``.

        :param gradient: The present one ``[P]``.
        :param number: Of how many samples it is.
        :param earlier: Samples of earlier updates.
        :param weights: How much each of their returns counts ``[A]``.
        :param perturbations: Draws their noise again.
        """
        if not earlier:
            return gradient
        total, weighted = float(number), np.float32(number) * gradient
        for each, counts in zip(earlier, weights, strict=True):
            weighted += np.float32(each.number) * self._estimate(each, counts, perturbations)
            total += each.number
        return weighted / np.float32(total)

    def _estimate(self, reweighted: Reweighted, weights: Floats, perturbations: Perturbations) -> NDArray[np.float32]:
        counts = (reweighted.shares * weights).astype(np.float32)
        senders = np.flatnonzero(reweighted.samples.sends)
        estimate: NDArray[np.float32] = counts[senders].sum() * reweighted.shift
        for part, noise in perturbations.parts(reweighted.samples.update, senders):
            estimate += counts[senders[part]] @ noise
        return estimate / np.float32(self._noise_stdev)

    def state_dict(self) -> dict[str, Any]:
        """The samples, as arrays, and what their noise was drawn by."""
        samples = [{name: getattr(each, name) for name in Samples.__slots__} for each in self._remembered]
        return {"samples": samples, "drawn_by": self._drawn_by}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`: of more updates than are remembered here the last ones, with noise of another kind
        none."""
        self._remembered.clear()
        if state["drawn_by"] == self._drawn_by:
            self._remembered.extend(Samples(**samples) for samples in state["samples"])
