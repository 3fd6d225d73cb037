"""Carrying a scheme out: from what agents have to what they step with.

    attack -> gate -> codec -> masking -> rule -> result -> codec of the broadcast

Every message knows its size, so that the ledger is charged in this class alone. Axes: A agents, P numbers that each exchanges.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rl_agg.accounting import Accounting
from rl_agg.accumulation import Accumulation
from rl_agg.attacks import Attack, make_attack
from rl_agg.combiners import Combiner
from rl_agg.comparisons import compare
from rl_agg.downlink import Downlink
from rl_agg.gates import VectorGate
from rl_agg.ledger import Ledger
from rl_agg.merging import Factored, Merged, merge_factored, merge_received
from rl_agg.payloads.base import VECTORS
from rl_agg.per_agent_gradients import flat, write
from rl_agg.rules.base import required
from rl_agg.rules.memory import Memory
from rl_agg.schedules import OnArrival
from rl_agg.scheme import Scheme
from rl_agg.signals import Signals, any_signal
from rl_agg.uplink import Received, Uplink
from rl_agg.weighting import Weighting

__all__ = ["Exchange", "Factored", "Merged"]


class Exchange(Accounting):
    """Exchanges among A agents what a scheme says, when it says so.

    :param scheme: One choice on each axis.
    :param num_agents: A.
    :param attack: Agents that send something else, for tests: an :class:`~rl_agg.attacks.Attack` or its settings.
    :param provides: See :meth:`Scheme.check`.
    :param ledger: Counts what is sent; ``None``: a ledger of its own.
    :param agents: The agents' numbers in that ledger ``[A]``; ``None``: it is of these A.
    :param seed: The run's, for codecs that draw; ``None``: 0.
    :raises ValueError: if a setting does not fit A.

    Source: Holen et al. (2023), algorithm 1.
    """

    on_arrival: ClassVar[bool] = False
    """Whether agents exchange one at a time."""

    def __init__(
        self,
        scheme: Scheme,
        num_agents: int,
        *,
        attack: Attack | Mapping[str, Any] | None = None,
        provides: frozenset[str] = frozenset(),
        ledger: Ledger | None = None,
        agents: ArrayLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(scheme, num_agents, ledger=ledger, agents=agents)
        self._attack = make_attack(attack)
        self._provides, self._seed = provides, seed or 0
        self._begin()

    def _begin(self) -> None:
        """Remember nothing but the ledger's counts."""
        self.num_exchanges = self._num_steps = self._since_last = 0
        self.gate = self.scheme.make_gate(self.num_agents)
        self._rule = self.scheme.rule  # a callable of a user's is used itself
        if isinstance(self._rule, Combiner):
            self._rule = copy.deepcopy(self._rule).seeded(self._seed)
        self._memory: Memory | None = None
        if isinstance(self._rule, Weighting) and self._rule.remembered:
            assert self._rule.smoothing is not None
            self._memory = Memory(self.num_agents, self._rule.remembered, self._rule.smoothing, self._rule.guard)
        self._uplink: Uplink | None = None  # of vectors; scores and transitions take their host's
        if self.scheme.payload.content in VECTORS:
            assert isinstance(self.gate, VectorGate)
            self._uplink = Uplink(self.scheme, self.gate, agents=self._agents, seed=self._seed)
        self._accumulation = Accumulation()
        self._downlink = Downlink(self.scheme.broadcast, seed=self._seed) if self.scheme.encodes_broadcasts else None
        self._begin_budget()

    def check(self) -> None:
        """Check that all choices and the attack can work with the number of agents.

        :raises ValueError: if one cannot, naming it and the bound; or if the schedule is another exchange's.
        """
        if isinstance(self.scheme.schedule, OnArrival) != self.on_arrival:
            raise ValueError(
                f"schedule {self.scheme.described['schedule']!r} does not fit: this algorithm exchanges "
                f"{'with one agent at a time' if self.on_arrival else 'with all agents at once'}"
            )
        self.scheme.check(self.num_agents, provides=self._provides)
        if self._attack is not None:
            self._attack.check(self.num_agents)

    @property
    def weights_only(self) -> bool:
        """Whether the host needs nothing but :meth:`weigh`, and reports with :meth:`charge` what that stands for."""
        return self.scheme.weights_only and self._attack is None

    @property
    def has_state(self) -> bool:
        """Whether a later exchange depends on more than the ledger."""
        remembers = self._memory is not None or (isinstance(self._rule, Weighting) and self._rule.has_state)
        return not self.weights_only or self._downlink is not None or remembers

    @property
    def scales(self) -> bool:
        """Whether it matters what the optimiser multiplies each parameter's gradient by."""
        return self._uplink is not None and self._uplink.decides

    # What is remembered of signals ----------------------------------------------------------------------------------------

    def begin_update(self, signals: Signals) -> None:
        """Let running means follow the last update, and what agents report once in this one.

        Hosts call it with each rollout, before the first step. What the server compares is known from the second call on;
        until then a rule that remembers it counts all alike.

        :param signals: Those of :data:`~rl_agg.signals.REPORTED` that the rule reads, and who is present.
        :raises ValueError: if one of them is missing.
        """
        if self._memory is None:
            return
        for name in self.scheme.reported & self._memory.names:
            value = required(signals, name)
            self._memory.observe(name, value.where(~signals.masked().to(value.device), torch.nan))
        self._memory.end_update()

    def _recalled(self, signals: Signals) -> Signals:
        """With running means in place of what is remembered."""
        return signals if self._memory is None else dataclasses.replace(signals, **self._memory.means(any_signal(signals)))

    def _compared(self, signals: Signals, received: Received, origin: Tensor | None) -> Signals:
        """With what the server sees in the vectors that it has, which all begin at an origin ``[P]``, if there is one."""
        names = self.scheme.compared
        if not names:
            return signals
        vectors = received.vectors if origin is None else received.vectors - origin
        found = compare(vectors, received.counts, names)
        if self._memory is not None:
            for name in names & self._memory.names:
                self._memory.observe(name, found.pop(name))
            if self.scheme.payload.content == "parameters":  # no two merges share an update
                self._memory.end_update(names & self._memory.names)
                signals = self._recalled(signals)
        return dataclasses.replace(signals, **found)

    # Where weights are enough ---------------------------------------------------------------------------------------------

    def weigh(self, signals: Signals) -> Tensor:
        """Weights of the agents, where these are all that a host needs.

        :param signals: What they report, each ``[A]``.
        :return: ``[A]``.
        """
        weights: Tensor = self._rule(self._recalled(signals))
        return weights

    # Where agents' vectors are seen ---------------------------------------------------------------------------------------

    def due(self) -> bool:
        """Count a step, and say whether the schedule asks for an exchange after it."""
        self._num_steps += 1
        self._since_last += 1
        due: bool = self.scheme.schedule.due(self._num_steps, self._since_last)
        if due:
            self._since_last = 0
        return due

    def step(
        self,
        gradients: Tensor | Factored,
        signals: Signals,
        *,
        idle: Tensor | None = None,
        scale: Tensor | None = None,
        gains: Tensor | None = None,
        zeros: bool = False,
    ) -> Merged | None:
        """Merge one step's gradients, or add them up until the schedule asks for an exchange.

        Other parameters as for :meth:`merge`.

        :param zeros: Whether an idle agent's gradient counts as zero among those that are added up.
        :return: ``None`` where there is no exchange, and thus no step.
        """
        due = self.due()
        if self.scheme.accumulates:
            rows = gradients if isinstance(gradients, Tensor) else gradients.matrix(by_parameter=False)
            self._accumulation.add(rows, signals, idle, zeros=zeros)
            if not due:
                return None
            gradients, signals, idle = self._accumulation.take(signals)
        return self.merge(gradients, signals, idle=idle, scale=scale, gains=gains)

    @torch.no_grad()
    def merge(
        self,
        vectors: Tensor | Factored,
        signals: Signals,
        *,
        idle: Tensor | None = None,
        scale: Tensor | None = None,
        gains: Tensor | None = None,
        reference: Tensor | None = None,
        extra: int = 0,
    ) -> Merged:
        """Exchange, and charge the ledger.

        :param vectors: Gradients of each agent's mean loss, or its parameters ``[A, P]``; rows of agents that are not present
            are not read. May be overwritten. Factored, they are of agents that are all present, and none is idle.
        :param signals: What the agents report with them, each ``[A]``.
        :param idle: Who has nothing this time, without being at fault ``[A]``, bool: a weighted sum counts it as zero, a
            combiner does not see it.
        :param scale: What the optimiser multiplies each parameter's gradient by ``[P]``, for a gate; ``None``: all alike.
        :param gains: See :class:`~rl_agg.gates.Offer`.
        :param reference: The parameters that were merged last ``[P]``, where parameters are exchanged.
        :param extra: Numbers that messages and answers hold as well, uncompressed, and that the host merges itself: moments.
        """
        assert self._uplink is not None
        rule = self._rule.at(self.num_exchanges) if isinstance(self._rule, Combiner) else self._rule
        if not isinstance(vectors, Tensor):
            is_combined = isinstance(rule, Combiner) and self._uplink.is_open and self._attack is None
            vector = merge_factored(rule, vectors) if is_combined else None
            if vector is not None:
                everyone = torch.ones(self.num_agents, dtype=torch.bool, device=vector.device)
                return self._finish(Merged(vector, everyone, everyone, None, ~everyone), len(vector), None)
            vectors = vectors.matrix(by_parameter=is_combined and rule.by_parameter)
        if self._attack is not None:
            vectors = self._attack(vectors, self.num_exchanges)
        payload, step = self.scheme.payload, self.num_exchanges
        offered = payload.outgoing(vectors, reference)
        present = ~signals.masked().to(offered.device) & offered.sum(1).isfinite()
        known = reference if offered is vectors else None  # differences are encoded as they are
        received = self._uplink.transmit(
            offered,
            present if idle is None else present & ~idle,
            step=step,
            scale=scale,
            gains=gains,
            reference=known,
        )
        known_signals = self._uplink.signals_of(self._recalled(signals), received)
        merged = merge_received(
            rule,
            received,
            self._compared(known_signals, received, known),
            present=present,
            idle=idle,
            as_shares=payload.content == "parameters",
            step=step,
            overwrite=self._uplink.is_open,
        )
        if reference is not None and not bool(received.counts.any()):
            vector = reference.clone()
        else:
            vector = payload.incoming(merged.vector, reference)
        down_bits = 0
        if self._downlink is not None and reference is not None and bool(received.counts.any()):
            vector, down_bits = self._downlink.send_to_all(self._downlink.ahead_of(vector), reference)
        merged = dataclasses.replace(merged, vector=vector)
        if self.scales and bool(received.counts.any()):
            self._note_step(merged, reference)
        return self._finish(merged, vectors.shape[1], received.bits, extra, down_bits)

    def _note_step(self, merged: Merged, reference: Tensor | None) -> None:
        """Let the gate know the step: a gradient on the scale of a mean, or the change of the parameters."""
        assert self._uplink is not None
        total = 1.0 if merged.weights is None else float(merged.weights.sum())
        if reference is not None:
            self._uplink.note_step(merged.vector - reference)
        elif self.scheme.payload.content == "gradients" and total:
            self._uplink.note_step(merged.vector / total)

    def _finish(self, merged: Merged, size: int, bits: Tensor | None, extra: int = 0, down_bits: int = 0) -> Merged:
        """Charge the ledger, and count the exchange."""
        self._charge_upload(merged.sends, size, bits, extra)
        everyone = np.ones(self.num_agents, dtype=np.bool_)  # act by the answer, masked ones too
        if self._downlink is None:
            self.charge_answers(everyone, size + extra)
        elif down_bits:
            self._charge_broadcast(everyone, down_bits, extra)
        self.num_exchanges += 1
        return merged

    @contextmanager
    def learning(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Let parameters be the learner's, which steps inside, and then what agents decode of its broadcast.

        This changes nothing where broadcasts are not encoded, or parameters are exchanged, which :meth:`merge` broadcasts.

        :param tensors: Parameters as all agents hold them, P numbers in all; changed in place.
        """
        downlink = self._downlink
        if downlink is None or self.scheme.payload.content != "gradients":
            yield
            return
        held = flat(tensors)
        write(downlink.ahead_of(held), tensors)
        try:
            yield
        finally:  # an interrupted run can be saved
            known, bits = downlink.send_to_all(flat(tensors), held)
            write(known, tensors)
            self._charge_broadcast(np.ones(self.num_agents, dtype=np.bool_), bits)

    # Checkpoints ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that decides how it continues, the ledger included; tensors on the CPU."""
        return {
            "scheme": self.scheme.described,
            "num_agents": self.num_agents,
            "seed": self._seed,
            "ledger": self.ledger.state_dict(),
            "num_exchanges": self.num_exchanges,
            "num_steps": self._num_steps,
            "since_last": self._since_last,
            "gate": self.gate.state_dict() if self._uplink is None else {},
            "uplink": {} if self._uplink is None else self._uplink.state_dict(),
            "accumulation": self._accumulation.state_dict(),
            "rule": self._rule.state_dict(),
            "downlink": None if self._downlink is None else self._downlink.state_dict(),
            "budget": self._budget_state(),
            "memory": {} if self._memory is None else self._memory.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        What belongs to other choices or another number of agents starts afresh, but the ledger keeps its counts; one that is
        missing stays as it is.
        """
        self._seed = state["seed"]
        self._begin()
        if "ledger" in state:
            self.ledger.load_state_dict(state["ledger"])
        self.num_exchanges = state["num_exchanges"]
        self._num_steps, self._since_last = state["num_steps"], state["since_last"]
        same = {axis for axis, name in self.scheme.described.items() if state["scheme"][axis] == name}
        self._load_budget_state(state["budget"])
        if self._downlink is not None and {"broadcast", "payload"} <= same:
            self._downlink.load_state_dict(state["downlink"])
        if "rule" in same:
            self._rule.load_state_dict(state["rule"])
        if "rule" in same and self._memory is not None and state["num_agents"] == self.num_agents:
            self._memory.load_state_dict(state["memory"])
        if self._uplink is None:
            if "gate" in same:
                self.gate.load_state_dict(state["gate"])
        elif state["num_agents"] == self.num_agents and "payload" in same:
            if {"gate", "codec"} <= same:
                self._uplink.load_state_dict(state["uplink"])
            if "schedule" in same:
                self._accumulation.load_state_dict(state["accumulation"])
