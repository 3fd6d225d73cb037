r"""Distributed Q-learning, with all samples or those that matter. Axes: A agents, C cells, U actions, T steps.

With the samples :math:`\mathcal U_{s,a}` of one cell and action that arrive in an update,

.. math:: \Delta(s, a, r, s') = r + \gamma \max_b Q(s', b) - Q(s, a), \qquad
    Q(s, a) \leftarrow Q(s, a) + \frac{\alpha}{|\mathcal U_{s,a}|} \sum_{\mathcal U_{s,a}} \Delta

where the value of what comes after a terminal step is 0.

Source: Gunn (2023), sections 2.4.1 and 2.4.2; Ornia and Mazo (2021). Differs: the report prints the mean over all samples of
the cell, whatever the action, with which Simple Grid is solved much worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.gates import TdErrorTrigger
from rl_agg.population.reports import AGENT_ID, Report
from rl_agg.tabular.episodes import TRANSITION, TabularEpisodes, unpacked
from rl_agg.tabular.server import TabularCentre, TabularOrder, check_tabular, run_episodes
from rl_agg.validation import build, check_number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class QSettings:
    """What centre and agents agree on.

    :param population: A.
    :param lr: alpha > 0.
    :param epsilon: Share of random actions, in [0, 1].
    :param initial_value: Of every cell and action.
    :param triggered: Whether agents send only samples of large error (EBCDQL), or all of them (DQL).
    :param communication_kwargs: Settings of :class:`~rl_agg.gates.TdErrorTrigger`.
    :raises ValueError: if one of them cannot be.
    """

    population: int = 5
    lr: float = 0.5
    epsilon: float = 0.1
    initial_value: float = 0.0
    triggered: bool = False
    communication_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_tabular(self)
        check_number("initial_value", self.initial_value)
        if self.triggered:
            self.make_trigger()
        elif self.communication_kwargs:
            raise ValueError(f"DQL sends every sample and has no communication_kwargs, got {self.communication_kwargs!r}")

    def make_trigger(self) -> TdErrorTrigger:
        """EBCDQL's gate."""
        return build("EBCDQL's trigger", TdErrorTrigger, self.communication_kwargs)


def td_errors(table: Floats, rows: NDArray[np.void], gamma: float) -> Floats:
    """Delta of each transition ``[T]``."""
    cells, actions, rewards, next_cells, goes_on = unpacked(rows)
    errors: Floats = rewards + gamma * goes_on * table[next_cells].max(axis=1) - table[cells, actions]
    return errors


class QAgents:
    """Runs any of the agents, and the greedy centre, whose number is A.

    :param episodes: Runs the episodes.
    :param settings: As the centre's.
    """

    def __init__(self, episodes: TabularEpisodes, settings: QSettings) -> None:
        self.episodes = episodes
        self.settings = settings
        self._trigger = settings.make_trigger() if settings.triggered else None

    def close(self) -> None:
        """Close the environments."""
        self.episodes.environments.close()

    def run(self, order: TabularOrder, agents: NDArray[np.int64]) -> Report:
        """Run an episode with each.

        :param agents: Which, in [0, A], ascending ``[k]``.
        """
        table = order.theta.astype(np.float64).reshape(self.episodes.shape)
        ran = run_episodes(self.episodes, order, agents, table, epsilon=self.settings.epsilon)
        memory = np.zeros((len(agents), order.memory.shape[1]))
        senders, sent = [np.empty(0, AGENT_ID)], [np.empty(0, TRANSITION)]
        for row, agent in enumerate(agents[agents < self.settings.population].tolist()):
            rows = ran.transitions[row]
            memory[row] = order.memory[agent]
            if not np.isfinite(ran.returns[row]):
                continue
            if self._trigger is not None:
                errors = td_errors(table, rows, self.episodes.gamma)
                sends, memory[row, 0] = self._trigger.decide(errors, order.memory[agent, 0])
                rows = rows[sends]
            senders.append(np.full(len(rows), agent, AGENT_ID))
            sent.append(rows)
        payload = {"transitions": np.concatenate(sent)}
        return Report(agents, ran.returns, ran.discounted, ran.lengths, memory, np.concatenate(senders), payload)


class QLearner(TabularCentre):
    """The centre.

    :param shape: C and U.
    :param gamma: Discount in [0, 1].
    :param run: See :class:`TabularCentre`.
    :param settings: As the agents'.
    """

    def __init__(self, shape: tuple[int, int], *, gamma: float, run: int | None = None, settings: QSettings) -> None:
        theta = np.full(shape[0] * shape[1], settings.initial_value, dtype=np.float32)
        super().__init__(theta, settings.population, int(settings.triggered), run)
        self.shape, self.gamma, self.settings = shape, gamma, settings

    @property
    def action_values(self) -> NDArray[np.float32]:
        """Q ``[C, U]``."""
        return self.theta.reshape(self.shape)

    def learn(self, report: Report) -> None:
        """Move each cell and action that was heard of by the mean of its errors."""
        rows = report.payload["transitions"]
        table = self.action_values.astype(np.float64)
        cells, actions, *_ = unpacked(rows)
        places = cells * self.shape[1] + actions
        errors = np.bincount(places, weights=td_errors(table, rows, self.gamma), minlength=self.theta.size)
        counts = np.bincount(places, minlength=self.theta.size)
        self.theta = (table.ravel() + self.settings.lr * errors / np.maximum(counts, 1)).astype(np.float32)

    def content(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Transitions."""
        return {"transitions": rows}
