"""What is sent and received, and how much may be. Axis A: agents."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from rl_agg.byte_budget import ByteBudget
from rl_agg.downlink import Downlink
from rl_agg.gates import Gate
from rl_agg.ledger import Ledger
from rl_agg.scheme import Scheme
from rl_agg.uplink import Uplink


class Accounting:
    """The part of :class:`~rl_agg.exchange.Exchange` that charges the ledger, and keeps a budget of bytes.

    :param scheme: One choice on each axis.
    :param num_agents: A.
    :param ledger: Counts what is sent; ``None``: a ledger of its own.
    :param agents: The agents' numbers in that ledger ``[A]``; ``None``: it is of these A.
    """

    gate: Gate
    _uplink: Uplink | None
    _downlink: Downlink | None
    _budget: ByteBudget | None
    _has_exchanged: bool  # in this update

    def __init__(self, scheme: Scheme, num_agents: int, *, ledger: Ledger | None, agents: ArrayLike | None) -> None:
        self.scheme = scheme
        self.num_agents = num_agents
        self.ledger = Ledger(num_agents) if ledger is None else ledger
        """What was sent and received so far."""
        self._agents = agents

    def charge(
        self,
        sends: ArrayLike,
        answers: ArrayLike,
        *,
        up: Mapping[str, Any],
        down: Mapping[str, Any],
        physical_bytes: int = 0,
        encoded: Mapping[str, Any] | None = None,
    ) -> None:
        """Count messages that a host made by itself, in one backward pass or at its workers.

        :param sends: How many messages each agent sent ``[A]``.
        :param answers: How many answers each received ``[A]``.
        :param up: Numbers in a message, by kind; see :meth:`rl_agg.Ledger.upload`. Signals that the rule reads come with it.
        :param down: Numbers in an answer, by kind; not read where broadcasts are encoded, see :meth:`learning`.
        :param physical_bytes: What was really moved between processes.
        :param encoded: Bytes in a message, by kind, where these are not a number's size times the numbers.
        """
        numbers: dict[str, Any] = dict(up)
        answer: dict[str, Any] = dict(down)
        if self.scheme.reported and self.scheme.payload.content != "scores":  # a score is the signal
            numbers["scalars"] = np.asarray(numbers.get("scalars", 0)) + len(self.scheme.reported)
        self._upload(sends, numbers, encoded, physical_bytes=physical_bytes)
        if self._downlink is None:
            self.ledger.download(answers, agents=self._agents, **answer)

    def charge_answers(self, answers: ArrayLike, size: int, *, physical_bytes: int = 0) -> None:
        """Count what agents are sent, in the kind that the payload asks for.

        :param answers: How many times each agent is ``[A]``.
        :param size: P.
        :param physical_bytes: What was really moved between processes.
        """
        numbers: dict[str, Any] = {self.scheme.payload.answer: size}
        self.ledger.download(answers, agents=self._agents, physical_bytes=physical_bytes, **numbers)

    def _charge_upload(self, sends: Tensor, size: int, bits: Tensor | None, extra: int = 0) -> None:
        kind = self.scheme.payload.kind
        encoded = None if bits is None else {kind: (bits.numpy() + 7) // 8}
        numbers: dict[str, Any] = {kind: extra if encoded else size + extra, "scalars": len(self.scheme.reported)}
        self._upload(sends.cpu().numpy(), numbers, encoded)

    def _upload(
        self,
        sends: ArrayLike,
        numbers: Mapping[str, Any],
        encoded: Mapping[str, ArrayLike] | None = None,
        *,
        physical_bytes: int = 0,
    ) -> None:
        before = 0 if self._budget is None else self._num_bytes
        self.ledger.upload(sends, agents=self._agents, physical_bytes=physical_bytes, encoded=encoded, **numbers)
        self._has_exchanged = True
        if self._budget is not None:
            self._budget.note(self._num_bytes - before)

    @property
    def _num_bytes(self) -> int:
        own = slice(None) if self._agents is None else np.asarray(self._agents)
        return int(self.ledger.bytes_per_agent[own].sum())

    def _charge_broadcast(self, receivers: ArrayLike, bits: int, extra: int = 0, *, physical_bytes: int = 0) -> None:
        kind = self.scheme.payload.answer
        numbers: dict[str, Any] = {kind: extra}
        encoded = {kind: (bits + 7) // 8}
        self.ledger.download(receivers, agents=self._agents, physical_bytes=physical_bytes, encoded=encoded, **numbers)

    # A budget of bytes -----------------------------------------------------------------------------------------------------

    @property
    def followed(self) -> dict[str, float]:
        """The setting that a budget of bytes moves, by its name; empty where there is no budget."""
        return {} if self._budget is None else {self._budget.name: self._budget.value}

    def end_update(self) -> None:
        """Called when an update of the host is over, for the budget of bytes."""
        if self._budget is not None and self._budget.end_update(has_exchanged=self._has_exchanged):
            self._turn()
        self._has_exchanged = False

    def _turn(self) -> None:
        """Give codec or gate what the budget asks for."""
        if self._budget is None:
            return
        if self.scheme.codec.knob is not None:
            assert self._uplink is not None
            self._uplink.codec = self.scheme.codec.turned(self._budget.value)
        else:
            setattr(self.gate, self._budget.name, self._budget.value)

    def _begin_budget(self) -> None:
        self._budget, self._has_exchanged = self.scheme.make_budget(self.gate), False
        self._turn()

    def _budget_state(self) -> dict[str, Any] | None:
        return None if self._budget is None else {**self._budget.state_dict(), "has_exchanged": self._has_exchanged}

    def _load_budget_state(self, state: Mapping[str, Any] | None) -> None:
        if self._budget is not None and state is not None:
            self._budget.load_state_dict(state)
            self._has_exchanged = state["has_exchanged"]
            self._turn()
