r"""Distributed Q-learning, with all samples or those that matter. Axes: A agents, C cells, U actions, T steps.

With the samples :math:`\mathcal U_{s,a}` of one cell and action that arrive in an update,

.. math:: \Delta(s, a, r, s') = r + \gamma \max_b Q(s', b) - Q(s, a), \qquad
    Q(s, a) \leftarrow Q(s, a) + \frac{\alpha}{|\mathcal U_{s,a}|} \sum_{\mathcal U_{s,a}} \Delta

where the value of what comes after a terminal step is 0.

Source: Gunn (2023), sections 2.4.1 and 2.4.2; Ornia and Mazo (2021). Differs: the report prints the mean over all samples of
the cell, whatever the action, with which Simple Grid is solved much worse.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.gates import TransitionGate
from rl_agg.population.reports import Report
from rl_agg.tabular.episodes import TRANSITION, TabularEpisodes, unpacked
from rl_agg.tabular.server import Floats, TabularAgents, TabularServer, TabularSettings
from rl_agg.validation import check_number


@dataclass(frozen=True)
class QSettings(TabularSettings):
    """Settings of Q-learning, with a gate over transitions; see :class:`TabularSettings`.

    With ``every`` it is DQL, with ``td_error`` EBCDQL.

    :param initial_value: Of every cell and action.
    """

    payload = "transitions"
    gate_class = TransitionGate

    lr: float = 0.5
    initial_value: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("initial_value", self.initial_value)


def td_errors(table: Floats, rows: NDArray[np.void], gamma: float) -> Floats:
    """Delta of each transition ``[T]``."""
    cells, actions, rewards, next_cells, continues = unpacked(rows)
    errors: Floats = rewards + gamma * continues * table[next_cells].max(axis=1) - table[cells, actions]
    return errors


class QAgents(TabularAgents):
    """Runs the episodes of Q-learning.

    :param episodes: Runs the episodes.
    :param settings: As the server's.
    """

    def __init__(self, episodes: TabularEpisodes, settings: QSettings) -> None:
        super().__init__(episodes, settings)
        self._gate = settings.make_gate()

    def action_values(self, theta: Floats) -> Floats:
        """The parameters, as a table."""
        return theta.reshape(self.episodes.shape)

    def empty_message(self, theta: Floats) -> NDArray[np.void]:
        """No transitions."""
        return np.empty(0, TRANSITION)

    def message(self, theta: Floats, rows: NDArray[np.void], memory: Floats, update: int) -> tuple[NDArray[np.void], Floats]:
        """All transitions, or those that the gate selects by their errors."""
        if not isinstance(self._gate, TransitionGate):
            return rows, memory
        errors = td_errors(self.action_values(theta), rows, self.episodes.gamma)
        sends, usual = self._gate.decide_transitions(errors, float(memory[0]))
        return rows[sends], np.array([usual])


class QLearner(TabularServer):
    """The server.

    :param shape: C and U.
    :param gamma: Discount in [0, 1].
    :param run: See :class:`~rl_agg.population.server.PopulationServer`.
    :param settings: As the agents'.
    """

    def __init__(self, shape: tuple[int, int], *, gamma: float, run: int | None = None, settings: QSettings) -> None:
        theta = np.full(shape[0] * shape[1], settings.initial_value, dtype=np.float32)
        super().__init__(theta, settings, int(isinstance(settings.make_gate(), TransitionGate)), run)
        self.shape, self.gamma, self.settings = shape, gamma, settings

    @property
    def action_values(self) -> NDArray[np.float32]:
        """Q ``[C, U]``."""
        return self.theta.reshape(self.shape)

    def learn(self, report: Report, present: NDArray[np.bool_]) -> None:
        """Move the value of each cell and action in the messages by the mean of its errors."""
        rows = report.payload["transitions"]
        table = self.action_values.astype(np.float64)
        cells, actions, *_ = unpacked(rows)
        places = cells * self.shape[1] + actions
        errors = np.bincount(places, weights=td_errors(table, rows, self.gamma), minlength=self.theta.size)
        counts = np.bincount(places, minlength=self.theta.size)
        self.theta = (table.ravel() + self.settings.lr * errors / np.maximum(counts, 1)).astype(np.float32)

    def message_content(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Transitions."""
        return {"transitions": rows}
