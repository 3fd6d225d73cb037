"""What is known of agents alongside their gradients. Axis A: agents."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Signals:
    """What agents report with their gradients, and what the server sees in these; every field is ``[A]``, NaN where unknown.

    Sequences and arrays are accepted and copied into float64 tensors; floating tensors keep dtype and device. Everything is
    detached: a weight is never differentiated.

    :param returns: Undiscounted episodic returns ``[A]`` in the environment's own units.
    :param losses: Losses ``[A]``, unitless.
    :param num_samples: Environment steps behind each agent's gradient ``[A]``, >= 0.
    :param present: Which agents take part ``[A]``, bool. ``None`` means all of them. An agent with an infinite signal is
        masked whatever this says.
    :param explained_variance: Share of its returns' variance that the critic explains ``[A]``, in [0, 1]; see
        :func:`rl_agg.explained_variance.explained_share`.
    :param agreement: Cosine of an agent's gradient with the mean direction of the others' ``[A]``.
    :param noise: Variance of an agent's gradient, in units of the agents' mean ``[A]``.
    :param norms: Norm of an agent's gradient ``[A]``. The server compares what it received for these three, see
        :mod:`rl_agg.comparisons`.
    :raises ValueError: if no field is given, a field is not ``[A]``, or a sample count is negative.
    """

    returns: Tensor | None = None
    losses: Tensor | None = None
    num_samples: Tensor | None = None
    present: Tensor | None = None
    explained_variance: Tensor | None = None
    agreement: Tensor | None = None
    noise: Tensor | None = None
    norms: Tensor | None = None
    _is_complete: Any = field(default=False, init=False, repr=False, compare=False)  # known to be

    def __post_init__(self) -> None:
        for name in (*MEASURED, "present"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _as_signal(value, name))
        shapes = {name: tuple(value.shape) for name, value in self._given() if value is not None}
        if not shapes:
            raise ValueError(f"signals are empty; give at least one of {', '.join((*MEASURED, 'present'))}")
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 or shape[0] == 0 for shape in shapes.values()):
            raise ValueError(f"every signal must be [A] with the same A >= 1, got shapes {shapes}")
        if self.num_samples is not None and bool((self.num_samples < 0).any()):
            raise ValueError(f"num_samples must not be negative, got {self.num_samples.tolist()}")

    def _given(self) -> list[tuple[str, Tensor | None]]:
        return [(name, getattr(self, name)) for name in (*MEASURED, "present")]

    @property
    def num_agents(self) -> int:
        """A, counting the agents that are not present."""
        return next(len(value) for _, value in self._given() if value is not None)

    def complete(self) -> bool:
        """Whether everyone is present and every signal given is finite, so that nothing is masked or missing."""
        if self._is_complete:
            return True
        given = [getattr(self, name) for name in MEASURED]
        finite = all(bool(value.isfinite().all()) for value in given if value is not None)
        return finite and (self.present is None or bool(self.present.all()))

    def with_losses(self, losses: Tensor, *, complete: bool) -> "Signals":
        """The same with other losses, unchecked: a host calls it in every minibatch.

        :param losses: ``[A]``, detached.
        :param complete: Whether nothing is masked or missing in what results.
        """
        other = object.__new__(Signals)
        for name, value in (*self._given(), ("losses", losses), ("_is_complete", complete)):
            object.__setattr__(other, name, value)
        return other

    def masked(self) -> Tensor:
        """Agents to leave out ``[A]``, bool: those not present, and those with an infinite signal."""
        mask: Tensor | None = None if self.present is None else ~self.present
        for name in MEASURED:
            value = getattr(self, name)
            if value is not None:
                infinite = value.isinf()
                mask = infinite if mask is None else mask | infinite.to(mask.device)
        assert mask is not None  # __post_init__ refuses empty signals
        return mask

    def of(self, agents: Tensor) -> "Signals":
        """Signals of some agents only.

        :param agents: Which, ``[A]`` bool.
        """
        kept = {name: None if value is None else value[agents.to(value.device)] for name, value in self._given()}
        return Signals(**kept)

    def without_gaps(self) -> "Signals":
        """Replace each NaN by the mean of what the other agents reported; by zero where no agent reported anything."""
        filled = {name: _fill(getattr(self, name)) for name in MEASURED}
        return dataclasses.replace(self, **filled)


BASIC = ("returns", "losses", "num_samples")
"""Signals that every host reports."""
REPORTED = (*BASIC, "explained_variance")
"""Those that agents send."""
COMPARED = ("agreement", "noise", "norms")
"""Those that the server finds by comparing what it received."""
MEASURED = (*REPORTED, *COMPARED)


@torch.no_grad()
def _as_signal(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        kept = torch.bool if name == "present" else value.dtype if value.is_floating_point() else torch.float64
        return value.detach().to(kept)
    # A copy: the caller may reuse its array, and Ray hands out arrays that must not be written to.
    return torch.tensor(value, dtype=torch.bool if name == "present" else torch.float64)


def _fill(values: Tensor | None) -> Tensor | None:
    if values is None:
        return None
    missing = values.isnan()
    if not bool(missing.any()):
        return values
    return torch.where(missing, values.nanmean().nan_to_num(), values)


def any_signal(signals: Signals, preferred: Collection[str] = ()) -> Tensor:
    """One of the signals, for its shape, dtype and device.

    :param preferred: Names to look at first.
    :return: ``[A]``, floating.
    """
    for name in sorted(MEASURED, key=lambda name: name not in preferred):
        value: Tensor | None = getattr(signals, name)
        if value is not None:
            return value
    assert signals.present is not None
    return signals.present.to(torch.float64)
