r"""A gate of our own: not sending means "about what was expected". Axis A: agents."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rl_agg.byte_budget import Knob
from rl_agg.gates.scores import Bools, Drawn, Floats, ScoreGate
from rl_agg.validation import check_number

START_DECAY = 0.8
"""What is left from one update to the next of the larger gain at the start."""

LEAST_THRESHOLD = 1e-6
"""A threshold of 0 could not grow again; below this, a return is the baseline."""


class DeviationGate(ScoreGate):
    r"""Send if the return is far from the baseline that the learner broadcast.

    With its parameters the learner broadcasts a baseline b and a threshold :math:`\tau`. Agent i sends if

    .. math:: |F_i - b| \, \lVert \epsilon_i \rVert_2 \ge \tau

    The learner takes b for the returns that were not sent, so that the mean of all returns is known nearly. With S of A
    agents sending,

    .. math:: b' = b + \frac{1}{A} \sum_{i \in S} (F_i - b), \qquad
        \tau' = \tau \, e^{2 g_k (|S|/A - m/A)}, \qquad g_k = g \, (1 + s \cdot 0.8^k)

    In the first update, k = 0, everyone sends, and :math:`\tau` becomes the 1 - m/A quantile of
    :math:`|F_i - b'| \, \lVert \epsilon_i \rVert_2`. Adding a constant to every return changes nothing.

    :param num_agents: A.
    :param expected_messages: m.
    :param gain: g >= 0, how fast the threshold follows; 0 leaves it.
    :param start: s >= 0, how much faster at the start, when returns spread out more from update to update.
    :param threshold: :math:`\tau` of the first update but one; ``None``: the quantile. With 0 everyone
        always sends.
    :raises ValueError: if a setting is out of range.

    Source: none, it is ours. Where it was tried, and where it fails: docs/es.md.
    """

    def __init__(
        self,
        num_agents: int,
        expected_messages: int,
        *,
        gain: float = 0.5,
        start: float = 3.0,
        threshold: float | None = None,
    ) -> None:
        for name, value in (("gain", gain), ("start", start), ("threshold", 0.0 if threshold is None else threshold)):
            check_number(name, value, least=0)
        super().__init__(num_agents, expected_messages)
        self.gain = gain
        self.start = start
        self.num_updates = 0
        self.baseline = math.nan
        """b; NaN before the first update."""
        self.threshold = math.nan if threshold is None else float(threshold)
        """tau; NaN until it is known."""

    @property
    def knob(self) -> Knob | None:
        """m, where the threshold follows it."""
        return super().knob if self.gain and self.threshold != 0 else None

    @property
    def wants_norms(self) -> bool:
        """For the first threshold."""
        return math.isnan(self.threshold)

    def broadcast(self) -> Floats:
        """b and tau."""
        return np.array([self.baseline, self.threshold])

    def decide_scores(self, drawn: Drawn, memory: Floats, broadcast: Floats) -> tuple[Bools, Floats]:
        """Those far from the baseline; all of them if there is none yet."""
        baseline, threshold = broadcast
        if math.isnan(baseline):
            return np.ones_like(drawn.fitness, dtype=np.bool_), memory
        return np.abs(drawn.fitness - baseline) * drawn.norms >= threshold, memory

    def receive(self, fitness: Floats, norms: Floats, present: Bools) -> Floats:
        """Impute what was not sent, and move baseline and threshold."""
        sent = ~np.isnan(fitness)
        is_first = math.isnan(self.baseline)
        imputed = np.where(sent | ~present, fitness, self.baseline)
        known = imputed[present]
        if not known.size:
            return imputed
        self.baseline = float(known.mean())
        if is_first:
            if math.isnan(self.threshold):
                deviations = (np.abs(fitness - self.baseline) * norms)[sent]
                quantile = float(np.quantile(deviations, 1.0 - self.expected_messages / self.num_agents))
                self.threshold = max(quantile, LEAST_THRESHOLD)
        elif self.threshold:
            excess = sent.sum() / known.size - self.expected_messages / self.num_agents
            gain = self.gain * (1 + self.start * START_DECAY**self.num_updates)
            self.threshold = max(self.threshold * math.exp(2 * gain * excess), LEAST_THRESHOLD)
        self.num_updates += 1
        return imputed

    def state_dict(self) -> dict[str, Any]:
        """The baseline, the threshold, and how long they have been followed."""
        own = {"baseline": self.baseline, "threshold": self.threshold, "num_updates": self.num_updates}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self.baseline, self.threshold, self.num_updates = (state[name] for name in ("baseline", "threshold", "num_updates"))
