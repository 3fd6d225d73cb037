"""Running means of the agents' signals: gradients arrive one by one, but a rule compares all agents. Axis A: agents."""

from __future__ import annotations

import math
from typing import Any

import torch

from rl_agg import Signals

SMOOTHING = 0.1
"""Step size of the running means; a fragment of a few steps is noisy."""

NAMES = ("returns", "losses", "num_samples")


class RunningSignals:
    """Running means of what A agents reported."""

    def __init__(self, num_agents: int) -> None:
        self._values = {name: torch.full((num_agents,), torch.nan, dtype=torch.float64) for name in NAMES}

    def observe(self, agent: int, *, returns: float, losses: float, num_samples: float) -> None:
        """Update an agent's means; NaN leaves them."""
        for name, value in zip(NAMES, (returns, losses, num_samples), strict=True):
            if math.isnan(value):
                continue
            known = float(self._values[name][agent])
            self._values[name][agent] = known + SMOOTHING * (value - known) if math.isfinite(known) else value

    def signals(self) -> Signals:
        """All agents' means ``[A]``; those that have not reported yet are not present."""
        return Signals(**self._values, present=~self._values["num_samples"].isnan())

    def get_state(self) -> dict[str, list[float]]:
        """For a checkpoint."""
        return {name: values.tolist() for name, values in self._values.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint; with another number of agents, those in both keep their values."""
        for name, own in self._values.items():
            saved = torch.tensor(state[name], dtype=torch.float64)[: len(own)]
            own.fill_(torch.nan)[: len(saved)] = saved
