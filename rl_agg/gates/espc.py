r"""Evolution strategies with probabilistic communication. Axes: A agents, K episodes that an agent remembers."""

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, ndtr

from rl_agg.gates.scores import Bools, Drawn, Floats, ScoreGate
from rl_agg.validation import check_count


def sending_probability(p: ArrayLike, num_agents: int, expected_messages: float) -> Floats:
    r"""Probability that at least A - m of the A - 1 others have less utility.

    :math:`P(\mathrm{Bi}(A - 1, p) \ge A - m) = I_p(A - m, m)`, the regularised incomplete beta function.

    :param p: Probability that one other agent has less utility; any shape.
    :param num_agents: A.
    :param expected_messages: m in [0, A].
    :return: As ``p``.
    """
    p = np.clip(np.asarray(p, dtype=np.float64), 0.0, 1.0)
    if expected_messages <= 0:
        return np.zeros_like(p)
    if expected_messages >= num_agents:
        return np.ones_like(p)
    chance: Floats = betainc(num_agents - expected_messages, expected_messages, p)
    return chance


class EspcGate(ScoreGate):
    r"""Send with the probability of being among the m agents of most utility, if utilities were Gaussian.

    .. math:: u = F \lVert \epsilon \rVert_2, \qquad z = \frac{u - \bar u}{s}, \qquad p = \Phi(z), \qquad
        p_{comm} = P(\mathrm{Bi}(A - 1, p) \ge A - m)

    with mean :math:`\bar u` and population standard deviation s of the agent's own last K utilities, this one included; s is 1
    where it would be 0.

    :param num_agents: A.
    :param expected_messages: m.
    :param window: K >= 1.
    :raises ValueError: if K is no integer >= 1.

    Source: Gunn (2023), sections 4.2 to 4.4. Differs: the standard deviation, where the report divides by the variance, and
    :math:`\Phi` from minus infinity, where its integral begins at 0. The window bends :math:`E[p_{comm}] = m/A`: of 50 agents
    with K = 5, those with m = 5, 15, 25, 30, 45 send about 6, 17, 25, 29, 44 messages.
    """

    def __init__(self, num_agents: int, expected_messages: int, *, window: int = 5) -> None:
        check_count("window", window, least=1)
        self.window = window
        self._has_warned = False
        super().__init__(num_agents, expected_messages)

    @property
    def num_remembered(self) -> int:
        """K utilities, the latest last."""
        return self.window

    def decide_scores(self, drawn: Drawn, memory: Floats, broadcast: Floats) -> tuple[Bools, Floats]:
        """Those whose chance is below :math:`p_{comm}`."""
        utilities = drawn.fitness * drawn.norms
        memory = np.concatenate([memory[:, 1:], utilities[:, None]], axis=1)
        lowest, highest = np.nanmin(memory, axis=1), np.nanmax(memory, axis=1)
        alike = lowest == highest  # rounding would give a tiny deviation instead of 0
        mean = np.where(alike, utilities, np.nanmean(memory, axis=1))
        deviation = np.where(alike, 1.0, np.nanstd(memory, axis=1))
        chance = sending_probability(ndtr((utilities - mean) / deviation), self.num_agents, self.expected_messages)
        return drawn.chances < chance, memory

    def receive(self, fitness: Floats, norms: Floats, present: Bools) -> Floats:
        """Take the returns as they are."""
        if not self._has_warned and (fitness < 0).any() and self.expected_messages < self.num_agents:
            self._has_warned = True
            warnings.warn(
                "communication='espc' got a negative return: its utility is the return times a norm, so that bad agents do "
                "not send and, with fitness='raw', the rest push the parameters away from the best of what is left. Add a "
                "constant to the reward that keeps returns positive, or use communication='deviation'.",
                UserWarning,
                stacklevel=2,
            )
        return fitness
