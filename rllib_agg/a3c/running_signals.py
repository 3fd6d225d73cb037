r"""How much an arriving gradient counts, when the other agents' are not there to compare it with.

Each agent's return and loss are remembered as running means, and the arriving gradient is scaled by

.. math:: f_a = A' w_a / \sum_b w_b, \qquad w = \mathrm{rule}(\text{running returns, losses, sample counts})

over the A' agents that have reported and are not masked. With ``mean`` or ``sum``, or for agents that do equally well, every
gradient stays as it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from rl_agg import Signals, Weighting

SMOOTHING = 0.1
"""What a new value moves the running mean by; a fragment of a few steps says little."""

NAMES = ("returns", "losses", "num_samples")


class RunningSignals:
    """Running means of what A agents reported.

    :param num_agents: A.
    """

    def __init__(self, num_agents: int) -> None:
        self._values = {name: torch.full((num_agents,), torch.nan, dtype=torch.float64) for name in NAMES}

    def observe(self, agent: int, *, returns: float, losses: float, num_samples: float) -> None:
        """Take a report in; NaN says nothing."""
        for name, value in zip(NAMES, (returns, losses, num_samples), strict=True):
            if math.isnan(value):
                continue
            known = float(self._values[name][agent])
            self._values[name][agent] = known + SMOOTHING * (value - known) if math.isfinite(known) else value

    def factor(self, agent: int, weighting: Weighting) -> float:
        """What to multiply the agent's gradient by; 0 if it is masked."""
        signals = Signals(**self._values, present=~self._values["num_samples"].isnan())
        weights = weighting(signals)
        total = float(weights.sum())
        return float(weights[agent] * (~signals.masked()).sum()) / total if total else 0.0

    def get_state(self) -> dict[str, list[float]]:
        """For a checkpoint."""
        return {name: values.tolist() for name, values in self._values.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint; of another number of agents, those that are still there keep theirs."""
        for name, own in self._values.items():
            saved = torch.tensor(state[name], dtype=torch.float64)[: len(own)]
            own.fill_(torch.nan)[: len(saved)] = saved
