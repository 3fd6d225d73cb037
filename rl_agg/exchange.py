"""What stands between the agents' gradients and the step that is taken. Axes: A agents, P parameters.

This is the way of a gradient where it must be seen agent by agent: attack, gate, combiner or weighted sum. A weighted sum that
everyone takes part in needs none of it, for one backward pass yields it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rl_agg.attacks import Attack
from rl_agg.combiners import Combiner
from rl_agg.combiners.distances import distances_of
from rl_agg.gates import LazyGate, make_gate
from rl_agg.payloads import LocalScheme
from rl_agg.scheme import Aggregation
from rl_agg.signals import MEASURED, Signals
from rl_agg.validation import build
from rl_agg.weighting import Weighting


class Factored(Protocol):
    """Gradients that need not be multiplied out to be weighed by their distances."""

    def products(self) -> Tensor | None:
        """Of any two of them ``[A, A]``; ``None`` where it is less work to multiply them out."""

    def weighted(self, weights: Tensor) -> Tensor:
        """Their sum ``[P]``, each times its weight ``[A]``."""

    def matrix(self, *, by_parameter: bool) -> Tensor:
        """All of them ``[A, P]``.

        :param by_parameter: Whether a parameter's gradients had better lie beside each other in memory.
        """


@dataclass(frozen=True, slots=True)
class Merged:
    """One gradient out of many.

    :param gradient: ``[P]``; zeros if nobody is present.
    :param sends: Who sent a gradient ``[A]``, bool.
    :param present: Whose gradient counts ``[A]``, bool.
    :param weights: How much each counts ``[A]``; ``None`` where a combiner decides.
    """

    gradient: Tensor
    sends: Tensor
    present: Tensor
    weights: Tensor | None


class ParameterServer:
    """Take in the gradients of all agents and answer with the one to step with.

    :param aggregation: A rule that weighs agents, or a combiner.
    :param gate: Who speaks; ``None``: everyone.
    :param attack: Who sends something else than their gradient.

    Source: Holen et al. (2023), algorithm 1.
    """

    def __init__(
        self, aggregation: Weighting | Combiner, *, gate: LazyGate | None = None, attack: Attack | None = None
    ) -> None:
        self._aggregation = aggregation
        self._gate = gate
        self._attack = attack
        self._num_steps = 0
        self._sent: dict[str, Tensor] = {}  # signals that came with the gradients that a gate holds, [A] each

    def check(self, num_agents: int) -> None:
        """Refuse a number of agents that the combiner or the attack does not fit.

        :param num_agents: A.
        :raises ValueError: naming the setting and the bound.
        """
        if self._attack is not None:
            self._attack.check(num_agents)
        if isinstance(self._aggregation, Combiner):
            self._aggregation.check(num_agents)

    @property
    def is_gated(self) -> bool:
        """Whether a gate decides who speaks."""
        return self._gate is not None

    @torch.no_grad()
    def merge(
        self, gradients: Tensor | Factored, signals: Signals, *, idle: Tensor | None = None, scale: Tensor | None = None
    ) -> Merged:
        """Merge one step's gradients.

        :param gradients: Of each agent's mean loss ``[A, P]``; rows of agents that are not present are not read. May be
            overwritten. Factored, they are of agents that are all present, and none is idle.
        :param signals: What the agents report with them, each ``[A]``.
        :param idle: Who has no gradient this time, without being at fault ``[A]``, bool: a weighted sum counts theirs as zero,
            a combiner does not see them.
        :param scale: What the optimiser multiplies each parameter's gradient by ``[P]``, for a gate; ``None``: all alike.
        """
        aggregation = self._aggregation
        if isinstance(aggregation, Combiner):
            aggregation = aggregation.at(self._num_steps)
        if not isinstance(gradients, Tensor):
            untouched = self._gate is None and self._attack is None
            combiner = aggregation if isinstance(aggregation, Combiner) and untouched else None
            merged = self._weigh_factored(combiner, gradients) if combiner is not None and combiner.by_distance else None
            if merged is not None:
                return merged
            gradients = gradients.matrix(by_parameter=combiner is not None and combiner.by_parameter)
        if self._attack is not None:
            gradients = self._attack(gradients, self._num_steps)
        present = ~signals.masked() & gradients.sum(1).isfinite()
        takes_part = present if idle is None else present & ~idle
        sends = takes_part
        if self._gate is not None:
            sends, gradients = self._gate(gradients, takes_part, scale)
        weights = None
        if isinstance(aggregation, Combiner):
            gradient, total = self._combine(aggregation, gradients, present, idle), gradients.new_ones(())
        else:
            if self._gate is not None:
                signals = self._held_signals(signals, sends, takes_part)
            weights = aggregation(dataclasses.replace(signals, present=present)).to(gradients.dtype)
            if not bool(takes_part.all()):
                gradients = torch.where(takes_part[:, None], gradients, 0.0)  # 0 * NaN is NaN
            gradient, total = weights @ gradients, weights.sum()
        if self._gate is not None and bool(takes_part.any()) and bool(total != 0):
            self._gate.note_step(gradient / total)
        self._num_steps += 1
        return Merged(gradient, sends, present, weights)

    def _held_signals(self, signals: Signals, sends: Tensor, takes_part: Tensor) -> Signals:
        """Signals as the learner knows them: of who does not speak, those that came with the last gradient."""
        held = {}
        for name in MEASURED:
            value, known = getattr(signals, name), self._sent.get(name)
            if value is None:
                continue
            if known is None or known.shape != value.shape:
                known = value
            known, speaks, silent = known.to(value), sends.to(value.device), (takes_part & ~sends).to(value.device)
            self._sent[name] = torch.where(speaks, value, known)
            held[name] = torch.where(silent, known, value)
        return dataclasses.replace(signals, **held)

    def _weigh_factored(self, combiner: Combiner, gradients: Factored) -> Merged | None:
        """Merge by the gradients' distances; ``None`` if that cannot be done."""
        products = gradients.products()
        distances = None if products is None else distances_of(products)
        weights = None if distances is None else combiner.weigh(distances, num_masked=0)
        if weights is None:
            return None
        self._num_steps += 1
        everyone = torch.ones_like(weights, dtype=torch.bool)
        return Merged(gradients.weighted(weights), everyone, everyone, None)

    def _combine(self, combiner: Combiner, gradients: Tensor, present: Tensor, idle: Tensor | None) -> Tensor:
        if idle is not None:
            gradients, present = gradients[~idle], present[~idle]
        return combiner(gradients, present=present, step=self._num_steps, overwrite=self._gate is None)

    def __getstate__(self) -> dict[str, Any]:
        """For a pickle that opens on machines without a GPU too."""
        return {**vars(self), "_sent": self._sent_on_cpu()}

    def state_dict(self) -> dict[str, Any]:
        """How many steps it has seen, and what its gate and combiner remember; of the agents' signals on the CPU."""
        return {
            "num_steps": self._num_steps,
            "signals": self._sent_on_cpu(),
            "gate": None if self._gate is None else self._gate.state_dict(),
            "combiner": self._aggregation.state_dict() if isinstance(self._aggregation, Combiner) else {},
        }

    def _sent_on_cpu(self) -> dict[str, Tensor]:
        return {name: value.cpu().clone() for name, value in self._sent.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; what is missing starts afresh."""
        self._num_steps = state["num_steps"]
        self._sent = dict(state.get("signals", {}))
        if self._gate is not None and state["gate"] is not None:
            self._gate.load_state_dict(state["gate"])
        if isinstance(self._aggregation, Combiner):
            self._aggregation.load_state_dict(state.get("combiner", {}))


def make_server(
    aggregation: Aggregation,
    num_agents: int,
    *,
    communication: str,
    communication_kwargs: Mapping[str, Any],
    attack: Attack | Mapping[str, Any] | None,
) -> ParameterServer | None:
    """Build what users ask for. Whether the number of agents fits is for :meth:`ParameterServer.check`.

    :param num_agents: A.
    :param communication: Who speaks, a name of :data:`rl_agg.gates.GATES`.
    :param communication_kwargs: The gate's settings.
    :param attack: Who sends something else; or the settings of it.
    :return: ``None`` where nobody needs to see an agent's own gradient: an ungated rule, or a scheme of local models.
    :raises ValueError: if a setting is unknown, or does not go with the aggregation.
    """
    if not isinstance(communication_kwargs, Mapping):
        raise ValueError(f"communication_kwargs must be a dict, got {communication_kwargs!r}")
    gate = make_gate(communication, num_agents, communication_kwargs)
    if isinstance(attack, Mapping):
        attack = build("attack", Attack, attack)
    if attack is not None and not isinstance(attack, Attack):
        raise ValueError(f"attack must be an Attack or a dict of its settings, got {attack!r}")
    if isinstance(aggregation, LocalScheme):
        if gate is not None or attack is not None:
            raise ValueError(f"{aggregation!r} merges parameters; communication and attack are about gradients")
        return None
    if isinstance(aggregation, Weighting) and gate is None and attack is None:
        return None
    return ParameterServer(aggregation, gate=gate, attack=attack)
