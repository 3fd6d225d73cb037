"""Servers of populations: counts, exchange and checkpoints. Axes: A agents, P parameters, K remembered numbers."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.exchange import Exchange
from rl_agg.ledger import Ledger
from rl_agg.population.reports import Report, measures
from rl_agg.seeding import fresh_run

SAVED = ("theta", "run", "num_updates", "num_skipped", "num_masked")


@dataclass(frozen=True, slots=True)
class Broadcast:
    """What the server sends for an update.

    :param run: See :mod:`rl_agg.seeding`.
    :param update: Counted from 0.
    :param theta: Parameters ``[P]``.
    :param memory: What agents remember ``[A, K]``, carried to wherever they run.
    """

    run: int
    update: int
    theta: NDArray[np.float32]
    memory: NDArray[np.float64]


class OutOfStepError(RuntimeError):
    """A worker cannot follow the server's step: it does not hold the parameters that the step was taken from."""


class PopulationServer:
    """Counts updates, and charges its exchange for messages; a subclass learns from them.

    :param theta: Initial parameters ``[P]``.
    :param exchange: Among A agents; holds the gate, the rule and the ledger.
    :param run: What all random numbers come from, see :mod:`rl_agg.seeding`; ``None``: a fresh one.
    """

    def __init__(self, theta: NDArray[np.float32], exchange: Exchange, run: int | None) -> None:
        self.theta = theta
        self.exchange = exchange
        self.num_agents = exchange.num_agents
        self.run = fresh_run() if run is None else run
        self.num_updates = 0
        self.num_skipped = 0
        """Updates without a finite episode, or whose step was not finite: nothing was learned."""
        self.num_masked = 0
        """Episodes whose return or gradient was not finite, or that were lost with their runner."""
        self.measures: dict[str, float] = {}
        """Of the last update, by name."""

    @property
    def ledger(self) -> Ledger:
        """The exchange's."""
        return self.exchange.ledger

    @property
    def memory(self) -> NDArray[np.float64]:
        """What agents remember ``[A, K]``, carried to wherever they run; :meth:`receive` writes to it."""
        raise NotImplementedError

    def broadcast(self) -> Broadcast:
        """What to send to the agents for this update."""
        return Broadcast(self.run, self.num_updates, self.theta.copy(), self.memory.copy())

    def learn(self, report: Report, present: NDArray[np.bool_]) -> None:
        """Update the parameters.

        :param report: Of all agents together.
        :param present: Agents whose episode was finite ``[A]``, at least one; they may have sent nothing.
        """
        raise NotImplementedError

    def message_content(self, rows: NDArray[np.int64]) -> Mapping[str, Any]:
        """What each agent's message holds, by the kinds of :class:`~rl_agg.ledger.Ledger`.

        :param rows: Number of message rows of each agent ``[A]``.
        """
        raise NotImplementedError

    def broadcast_content(self) -> Mapping[str, Any]:
        """What the broadcast of this update holds, likewise."""
        return {"parameters": self.theta.size}

    def receive(self, report: Report) -> None:
        """Learn from the messages of an update, and count them.

        :param report: Of all agents together; missing agents are masked. The server's own episode is ignored.
        """
        agents = report.agents < self.num_agents
        finite = agents & report.present
        present = np.zeros(self.num_agents, dtype=np.bool_)
        present[report.agents[finite]] = True
        self.memory[report.agents[agents]] = report.memory[agents]
        self.num_masked += int((~present).sum())
        messages, before = self.ledger.messages_per_agent.copy(), self.ledger.bytes_per_agent
        down = self.broadcast_content()
        if present.any():
            self.learn(report, present)
        else:
            self.num_skipped += 1
        self.charge(report, down)
        self.exchange.end_update()
        sends, sizes = self.ledger.messages_per_agent > messages, self.ledger.bytes_per_agent - before
        self.measures |= measures(report.discounted[finite], sends, sizes)
        self.num_updates += 1

    def charge(self, report: Report, down: Mapping[str, Any]) -> None:
        """Count the messages of an update, and the broadcast."""
        rows = np.bincount(report.senders, minlength=self.num_agents)
        everyone = np.ones(self.num_agents, dtype=np.int64)
        self.exchange.charge(rows > 0, everyone, up=self.message_content(rows), down=down)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that later updates depend on, parameters included."""
        return copy.deepcopy({**{name: getattr(self, name) for name in SAVED}, "exchange": self.exchange.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`, to the bit."""
        for name in SAVED:
            setattr(self, name, copy.copy(state[name]))
        self.exchange.load_state_dict(state["exchange"])
