"""What the centres and agents of tabular algorithms have in common. Axes: A agents, k of them here, P parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rl_agg.ledger import Ledger
from rl_agg.population.reports import AGENT_ID, Report, measures
from rl_agg.seeding import episode_seeds, fresh_run, stream
from rl_agg.tabular.episodes import TabularEpisodes, Trajectories
from rl_agg.validation import check_count, check_number


@dataclass(frozen=True, slots=True)
class TabularOrder:
    """What the centre broadcasts.

    :param run: See :mod:`rl_agg.seeding`.
    :param update: Counted from 0.
    :param theta: Parameters ``[P]``.
    :param memory: What agents remember ``[A, K]``, carried to wherever they run.
    """

    run: int
    update: int
    theta: NDArray[np.float32]
    memory: NDArray[np.float64]


class TabularSettings(Protocol):
    """What all of them need to know."""

    @property
    def population(self) -> int:
        """A."""

    @property
    def lr(self) -> float:
        """Step size."""

    @property
    def epsilon(self) -> float:
        """Share of random actions."""


def check_tabular(settings: TabularSettings) -> None:
    """Check what all of them need to know.

    :raises ValueError: naming the setting that is wrong.
    """
    check_count("population", settings.population, least=1, most=np.iinfo(AGENT_ID).max)
    check_number("lr", settings.lr, above=0)
    check_number("epsilon", settings.epsilon, least=0, most=1)


def run_episodes(
    episodes: TabularEpisodes, order: TabularOrder, agents: NDArray[np.int64], table: NDArray[np.float64], *, epsilon: float
) -> Trajectories:
    """Run an episode with each agent; the centre's, whose number is A, is greedy throughout.

    :param agents: Which, in [0, A], ascending ``[k]``.
    :param table: Action values.
    :param epsilon: The agents' share of random actions.
    """
    size = len(order.memory)
    return episodes(
        table,
        episode_seeds(order.run, order.update, size + 1)[agents],
        [stream("actions", order.run, order.update, agent) for agent in agents.tolist()],
        np.where(agents < size, epsilon, 0.0),
    )


class TabularCentre:
    """Counts updates, messages and bytes; a subclass says what it makes of messages.

    :param theta: Parameters to begin with ``[P]``.
    :param num_agents: A.
    :param num_remembered: K.
    :param run: What all random numbers come from; ``None``: a fresh one.
    """

    def __init__(self, theta: NDArray[np.float32], num_agents: int, num_remembered: int, run: int | None) -> None:
        self.theta = theta
        self.run = fresh_run() if run is None else run
        self.num_agents = num_agents
        self.num_updates = 0
        self.num_skipped = 0
        """Updates without a single sound episode."""
        self.num_masked = 0
        """Episodes whose return was not finite, or that were lost with their runner."""
        self.ledger = Ledger(num_agents)
        self.measures: dict[str, float] = {}
        """Of the last update, by name."""
        self._memory = np.zeros((num_agents, num_remembered))

    def order(self) -> TabularOrder:
        """What to send to the agents for this update."""
        return TabularOrder(self.run, self.num_updates, self.theta.copy(), self._memory.copy())

    def receive(self, report: Report) -> None:
        """Learn from the messages of an update.

        :param report: All agents' together; those that are missing are masked. The centre's is not looked at.
        """
        agents = report.agents < self.num_agents
        sound = agents & report.present
        self._memory[report.agents[agents]] = report.memory[agents]
        self.num_masked += self.num_agents - int(sound.sum())
        self.num_skipped += int(not sound.any())
        if len(report.senders):
            self.learn(report)
        rows = np.bincount(report.senders, minlength=self.num_agents)
        before = self.ledger.bytes_per_agent
        self.ledger.upload(rows > 0, **self.content(rows))
        self.ledger.download(np.ones(self.num_agents), parameters=self.theta.size)
        sizes = self.ledger.bytes_per_agent - before
        self.measures |= measures(report.discounted[sound], rows > 0, sizes)
        self.num_updates += 1

    def learn(self, report: Report) -> None:
        """Update the parameters from at least one message."""
        raise NotImplementedError

    def content(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """What each agent's message holds, for the ledger.

        :param rows: Message rows that each agent sent ``[A]``.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that decides how it goes on, parameters included."""
        names = ("theta", "run", "num_updates", "num_skipped", "num_masked", "_memory")
        return copy.deepcopy({**{name: getattr(self, name) for name in names}, "ledger": self.ledger.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, to the bit. Of another number of agents, all have forgotten what they remembered."""
        fresh = np.zeros_like(self._memory)
        for name, value in copy.deepcopy(dict(state)).items():
            if name != "ledger":
                setattr(self, name, value)
        if self._memory.shape != fresh.shape:
            self._memory = fresh
        self.ledger.load_state_dict(state["ledger"])
