"""Exchanging with one agent at a time, as its message arrives. Axes: A agents, P parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rl_agg.combiners import Combiner
from rl_agg.exchange import Exchange
from rl_agg.signals import Signals


class Answer(NamedTuple):
    """What an agent is sent.

    :param parameters: That it holds then ``[P]``.
    :param bits: Of the message; ``None``: canonical, 32 a number.
    """

    parameters: Tensor
    bits: int | None


class ArrivalExchange(Exchange):
    r"""An exchange whose schedule is :class:`~rl_agg.schedules.OnArrival`.

    A rule scales the arriving gradient by :math:`f_a = A' w_a / \sum_b w_b` over the A' agents that are present: with
    ``mean`` or ``sum``, or for agents that report alike, it stays as it is. A combiner combines the last gradient of every
    agent that has sent one.
    """

    on_arrival = True

    _buffer: Tensor | None = None  # [A, P], the last gradient of each agent, NaN before, for a combiner
    _held: Tensor | None = None  # [A, P], what each agent decoded of the learner's parameters, NaN before

    @torch.no_grad()
    def arrive(
        self,
        agent: int,
        gradient: Tensor,
        signals: Signals,
        *,
        scale: Tensor | None = None,
        gains: Tensor | None = None,
    ) -> Tensor | None:
        """Take a gradient in, and charge the ledger for the message.

        :param agent: Whose, 0 to A - 1.
        :param gradient: ``[P]``.
        :param signals: What is known of all agents ``[A]``; those that have not reported yet are not present.
        :param scale: See :class:`~rl_agg.gates.Offer`.
        :param gains: See :class:`~rl_agg.gates.Offer`; only the agent's own is read.
        :return: What to step with ``[P]``; ``None`` if the agent does not send, is masked, or counts nothing.
        """
        assert self._uplink is not None
        offered = gradient.new_zeros(self.num_agents, len(gradient))
        offered[agent] = gradient
        if self._attack is not None:
            offered = self._attack(offered, self.num_exchanges)
        here = torch.zeros(self.num_agents, dtype=torch.bool, device=gradient.device)
        here[agent] = ~signals.masked()[agent] & offered[agent].sum().isfinite()
        received = self._uplink.transmit(offered, here, step=self.num_exchanges, scale=scale, gains=gains)
        self._charge_upload(received.sends, len(gradient), received.bits)
        step = self._merge_arrived(agent, received.vectors[agent], signals) if bool(received.sends[agent]) else None
        self.num_exchanges += 1
        if step is not None:
            self._uplink.note_step(step)
        return step

    def _merge_arrived(self, agent: int, gradient: Tensor, signals: Signals) -> Tensor | None:
        if isinstance(self._rule, Combiner):
            if self._buffer is None or self._buffer.shape[1] != len(gradient):
                self._buffer = gradient.new_full((self.num_agents, len(gradient)), torch.nan)
            rows = self._buffer = self._buffer.to(gradient)
            rows[agent] = gradient
            sent = ~rows.isnan().all(1)  # the others are not at fault, as masked agents would be
            sent[agent] = True
            rows = rows[sent]
            return self._rule(rows, present=rows.isfinite().all(1), step=self.num_exchanges, overwrite=True)
        factor = self.factor(agent, signals)
        return factor * gradient if factor else None

    def factor(self, agent: int, signals: Signals) -> float:
        """What an agent's gradient is scaled by; 0 if it is masked, and otherwise 1 where a combiner decides.

        :param agent: As for :meth:`arrive`.
        :param signals: As for :meth:`arrive`.
        """
        if isinstance(self._rule, Combiner):
            return float(not signals.masked()[agent])
        weights = self._rule(signals)
        total, num_present = float(weights.sum()), int((~signals.masked()).sum())
        return float(weights[agent]) * num_present / total if total else 0.0

    @torch.no_grad()
    def encode_answer(self, agent: int, parameters: Tensor) -> Answer:
        """Encode the learner's parameters for an agent: at first, and where broadcasts are not encoded, as they are; otherwise
        by their difference from what the agent holds.

        :param agent: Whom for, 0 to A - 1.
        :param parameters: ``[P]``.
        """
        if self._downlink is None:
            return Answer(parameters, None)
        if self._held is None or self._held.shape[1] != len(parameters):
            self._held = parameters.new_full((self.num_agents, len(parameters)), torch.nan)
        self._held = self._held.to(parameters)
        known = self._held[agent]
        if bool(known.isnan().any()):
            return Answer(parameters, None)
        return Answer(*self._downlink.send(parameters, known, agent))

    def charge_answer(self, agent: int, answer: Answer, *, physical_bytes: int = 0) -> None:
        """Count an answer that was sent, and remember what the agent holds now.

        :param agent: Who got it.
        :param answer: As :meth:`encode_answer` made it.
        :param physical_bytes: What was really moved between processes.
        """
        receiver = np.arange(self.num_agents) == agent
        if answer.bits is None:
            self.charge_answers(receiver, len(answer.parameters), physical_bytes=physical_bytes)
        else:
            self._charge_broadcast(receiver, answer.bits, physical_bytes=physical_bytes)
        if self._held is not None:
            self._held[agent] = answer.parameters

    def state_dict(self) -> dict[str, Any]:
        """As an exchange's, with the last gradient of each agent, and what each decoded."""
        own = {"buffer": self._buffer, "held": self._held}
        copies = {name: None if rows is None else rows.cpu().clone() for name, rows in own.items()}
        return {**super().state_dict(), **copies}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; of another number of agents, none has sent or received anything yet."""
        super().load_state_dict(state)
        self._buffer, self._held = (
            state[name].clone() if state[name] is not None and len(state[name]) == self.num_agents else None
            for name in ("buffer", "held")
        )
