r"""Signals that are remembered from update to update. Axis A: agents.

An agent's signal is noisy in a single update, so that rules see its running mean,

.. math:: m_a \leftarrow s\, m_a + (1 - s)\, x_a, \quad m_a = m_0 \text{ at first},

with :math:`x_a` the mean of what was observed in an update; an agent of which nothing was observed keeps its mean. The
minibatches of an update hold the same data again and again, and count as one observation.

With a guard, agents differ only where it is established that one is worse, see :mod:`rl_agg.rules.evidence`: the others have
the mean of their means, and it has its own, but none that is better than theirs.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from rl_agg.rules.evidence import Evidence

STARTS = {"explained_variance": 0.0, "agreement": 0.0, "noise": 1.0}
""":math:`m_0` of each signal that is remembered."""
SMOOTHING = 0.7
""":math:`s`, unless a user sets another."""
BETTER_SMALL = frozenset({"noise"})


class RunningSignal:
    """One signal of A agents.

    :param start: :math:`m_0`.
    :param smoothing: :math:`s`.
    :param sign: -1 where less of it is better.
    :param evidence: Of its guard.
    """

    def __init__(self, num_agents: int, start: float, smoothing: float, sign: int, evidence: Evidence | None) -> None:
        self._start, self._smoothing, self._sign, self._evidence = start, smoothing, sign, evidence
        self._means = torch.full((num_agents,), torch.nan, dtype=torch.float64)
        self._sums = torch.zeros(num_agents, dtype=torch.float64)
        self._counts = torch.zeros(num_agents, dtype=torch.float64)

    def observe(self, values: Tensor) -> None:
        """Add an observation of the current update ``[A]``, NaN where there is none."""
        known = values.isfinite()
        self._sums += values.where(known, 0.0).to(self._sums)
        self._counts += known.to(self._counts)

    def end_update(self) -> None:
        """Let the running means follow what was observed since the last call."""
        observed = (self._sums / self._counts).where(self._counts > 0, torch.nan)
        before = self._means.where(~self._means.isnan(), self._start)
        after = before + (1 - self._smoothing) * (observed - before)
        self._means = after.where(self._counts > 0, self._means)
        if self._evidence is not None:
            self._evidence.add(self._sign * observed)
        self._sums, self._counts = torch.zeros_like(self._sums), torch.zeros_like(self._counts)

    @property
    def means(self) -> Tensor:
        """``[A]``, NaN where nothing was observed as yet; with a guard, see the top of this file."""
        if self._evidence is None:
            return self._means
        worse = self._evidence.established
        usual = self._sign * self._means[~worse].nanmean()
        own = (self._sign * self._means).minimum(usual)
        return self._sign * own.where(worse, usual)

    def state_dict(self) -> dict[str, Any]:
        """What it has observed."""
        state = {"means": self._means, "sums": self._sums, "counts": self._counts}
        evidence = {} if self._evidence is None else self._evidence.state_dict()
        return {**{name: value.clone() for name, value in state.items()}, "evidence": evidence}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._means, self._sums, self._counts = (state[name].clone() for name in ("means", "sums", "counts"))
        if self._evidence is not None and state["evidence"]:
            self._evidence.load_state_dict(state["evidence"])


class Memory:
    """Running means of the signals that a rule reads.

    :param num_agents: A.
    :param names: Of :data:`STARTS`.
    :param smoothing: :math:`s`.
    :param guard: :math:`\\alpha`; ``None``: none.
    """

    def __init__(self, num_agents: int, names: Collection[str], smoothing: float, guard: float | None) -> None:
        self._signals = {}
        for name in sorted(names):
            evidence = None if guard is None else Evidence(num_agents, math.log(num_agents * len(names) / guard))
            sign = -1 if name in BETTER_SMALL else 1
            self._signals[name] = RunningSignal(num_agents, STARTS[name], smoothing, sign, evidence)

    @property
    def names(self) -> frozenset[str]:
        """Signals that it remembers."""
        return frozenset(self._signals)

    def observe(self, name: str, values: Tensor) -> None:
        """As :meth:`RunningSignal.observe`."""
        self._signals[name].observe(values)

    def end_update(self, names: Collection[str] | None = None) -> None:
        """As :meth:`RunningSignal.end_update`, of some signals or of all."""
        for name in self._signals if names is None else names:
            self._signals[name].end_update()

    def means(self, like: Tensor) -> dict[str, Tensor]:
        """Of each signal ``[A]``.

        :param like: On its device.
        """
        return {name: signal.means.to(like.device) for name, signal in self._signals.items()}

    def state_dict(self) -> dict[str, Any]:
        """Of each signal."""
        return {name: signal.state_dict() for name, signal in self._signals.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict` of the same number of agents."""
        for name, signal in self._signals.items():
            if name in state:
                signal.load_state_dict(state[name])
