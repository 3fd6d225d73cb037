"""What a rule is. Axis A: agents."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from rl_agg.payloads.base import VECTORS
from rl_agg.signals import Signals

Rule = Callable[..., Any]
"""``rule(signals, **settings) -> weights [A]``, a tensor, an array or a sequence, over agents that are all present and have
all reported."""


@dataclass(frozen=True, slots=True)
class RegisteredRule:
    """A rule, the signals that it reads, and what it can weigh.

    :param function: The rule.
    :param needs: Names of the fields of :class:`~rl_agg.Signals` that it reads.
    :param payloads: What it weighs, by the payload's ``content``.
    :param guard: As of :class:`~rl_agg.Weighting`, unless a user sets another.
    """

    function: Rule
    needs: frozenset[str] = frozenset()
    payloads: frozenset[str] = VECTORS
    guard: float | None = None


def required(signals: Signals, name: str) -> Tensor:
    """A signal that a rule cannot do without.

    :raises ValueError: if it was not given.
    """
    value: Tensor | None = getattr(signals, name)
    if value is None:
        raise ValueError(f"this rule needs Signals.{name}, which was not given")
    return value


def floor(h: float | None, num_agents: int) -> float:
    """The weight ``1/h`` that every agent keeps.

    :param h: ``None``: A.
    :param num_agents: A.
    :raises ValueError: if ``h`` is not a positive number.
    """
    if h is None:
        return 1.0 / num_agents
    value: Any = h  # NumPy's numbers are no Python floats
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
        raise ValueError(f"h must be a positive number or None for the number of agents, got {h!r}")
    return 1.0 / h


def above_least(values: Tensor) -> Tensor:
    """Values less the least of them ``[A]``, in another unit where a difference is beyond their dtype."""
    least = values.min()
    shifted = values - least
    return shifted if bool(shifted.isfinite().all()) else values / 2 - least / 2


def shares(values: Tensor) -> Tensor:
    """Each agent's part of the sum ``[A]``; equal parts where the sum is zero."""
    total = values.sum()
    if not math.isfinite(sum_ := float(total)):  # finite values, whose sum is beyond their dtype
        values = values / values.abs().max() / len(values)
        total = values.sum()
        sum_ = float(total)
    return torch.full_like(values, 1.0 / len(values)) if sum_ == 0 else values / total
