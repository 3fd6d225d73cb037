"""Gradients that are added up between two exchanges. Axes: A agents, P parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rl_agg.signals import Signals

AVERAGED = ("losses", "num_samples")
"""Signals that are added up as well."""


class Accumulation:
    """Each agent's gradients, losses and samples since the last exchange, as sums and what they are sums of."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}  # gradients [A, P], the others [A]
        self._counts: dict[str, Tensor] = {}  # numbers of addends [A]
        self._present: Tensor | None = None  # [A], bool, in any of the steps
        self._counted: Tensor | None = None  # [A], bool, with a gradient in any of them

    @torch.no_grad()
    def add(self, gradients: Tensor, signals: Signals, idle: Tensor | None, *, zeros: bool = False) -> None:
        """Add one step's.

        :param gradients: ``[A, P]``.
        :param signals: What agents report in this step ``[A]``.
        :param idle: Who has no gradient this time ``[A]``, bool.
        :param zeros: Whether such an agent's counts as zero, because it has none by chance; otherwise its mean is over fewer.
        """
        present = ~signals.masked().to(gradients.device) & gradients.sum(1).isfinite()
        counted = present if idle is None else present & ~idle
        if self._present is None or self._counted is None or self._sums["gradients"].shape != gradients.shape:
            self._reset()
            self._present = self._counted = torch.zeros_like(present)
        self._present = self._present.to(present.device) | present
        self._counted = self._counted.to(present.device) | counted
        self._add("gradients", torch.where(counted[:, None], gradients, 0.0), present if zeros else counted)
        for name in AVERAGED:
            value: Tensor | None = getattr(signals, name)
            if value is not None:
                known = counted.to(value.device) & ~value.isnan()
                self._add(name, torch.where(known, value, 0.0).double(), known)

    def _add(self, name: str, values: Tensor, counted: Tensor) -> None:
        known, counts = self._sums.get(name), self._counts.get(name)
        self._sums[name] = values if known is None else known.to(values).add_(values)
        self._counts[name] = counted.long() if counts is None else counts.to(counted.device) + counted

    def take(self, signals: Signals) -> tuple[Tensor, Signals, Tensor | None]:
        """Each agent's mean gradient, and start again.

        :param signals: What agents report in the last step, for what is not added up: returns.
        :return: Gradients ``[A, P]``; signals, with the mean loss and all samples of the steps, NaN where an agent had none;
            and who was present without a gradient in any of them ``[A]``, if there is such an agent.
        """
        assert self._present is not None
        assert self._counted is not None
        counts, present = self._counts["gradients"], self._present
        means = self._sums["gradients"] / counts.clamp(min=1)[:, None]
        taken: dict[str, Tensor] = {"present": present}
        for name in AVERAGED:
            value: Tensor | None = getattr(signals, name)
            if value is not None:
                known = self._counts[name]
                total = self._sums[name] / known if name == "losses" else self._sums[name]
                taken[name] = total.where(known > 0, torch.nan).to(value)
        idle = present & ~self._counted
        self._reset()
        return means, dataclasses.replace(signals, **taken), idle if bool(idle.any()) else None

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, on the CPU."""
        agents = {"present": self._present, "counted": self._counted}
        return {
            "sums": {name: value.cpu().clone() for name, value in self._sums.items()},
            "counts": {name: value.cpu().clone() for name, value in self._counts.items()},
            **{name: None if value is None else value.cpu().clone() for name, value in agents.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._sums = {name: value.clone() for name, value in state["sums"].items()}
        self._counts = {name: value.clone() for name, value in state["counts"].items()}
        self._present, self._counted = (
            None if state[name] is None else state[name].clone() for name in ("present", "counted")
        )
