r"""Distributed approximate value iteration. Axes: A agents, C cells, U actions, T steps, D features.

With :math:`V = \theta^\top \varphi` and targets :math:`y_t = r_t + \gamma V(s_{t+1})`, where V is 0 after a terminal step, an
agent computes

.. math:: \hat g = \frac{1}{T} \sum_t \varphi_t (\theta^\top \varphi_t - y_t), \qquad
    \delta = J(\theta - \eta \hat g) - J(\theta) = -2 \eta \lVert \hat g \rVert^2 + \eta^2 \hat g^\top \hat H \hat g, \qquad
    \hat H = \frac{1}{T} \sum_t \varphi_t \varphi_t^\top

with J the mean squared error of its own episode, targets held; it sends :math:`\hat g` if :math:`\delta` is below a threshold,
see :class:`~rl_agg.gates.GainThreshold`. The centre steps by :math:`-\eta` times the mean of what it received.

Acting greedily on V takes a model of the environment: agents must know where actions lead, which Q-learning does not ask of
them.

Source: Gatsis (2021), arXiv:2112.05908; Gunn (2023), section 2.4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_agg.gates import GainThreshold
from rl_agg.population.environments import ListedEnvironments
from rl_agg.population.reports import AGENT_ID, Report
from rl_agg.tabular.episodes import TabularEpisodes, unpacked
from rl_agg.tabular.server import TabularCentre, TabularOrder, check_tabular, run_episodes
from rl_agg.validation import build

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """What actions lead to.

    :param rewards: Expected reward ``[C, U]``.
    :param transitions: Probability of each next cell from which the episode goes on ``[C, U, C]``.
    """

    rewards: Floats
    transitions: Floats

    def action_values(self, values: Floats, gamma: float) -> Floats:
        """Expected reward and discounted value of what comes after ``[C, U]``, for values ``[C]``."""
        found: Floats = self.rewards + gamma * self.transitions @ values
        return found


def model_of(environments: Any) -> Model:
    """Read the model that an environment has, as Gymnasium's toy texts and our grids do.

    :param environments: As :func:`~rl_agg.population.open_environments` makes them.
    :raises ValueError: if it has none: the values of actions are not known then.
    """
    table = None
    if isinstance(environments, ListedEnvironments):
        table = getattr(environments.first.unwrapped, "P", None)
    if table is None:
        raise ValueError(
            "DAVIA acts greedily on values of cells, so that agents must know where actions lead: the environment needs a "
            "model P[cell][action] = [(probability, next cell, reward, terminated), ...], as Gymnasium's FrozenLake-v1 has"
        )
    size = (len(table), len(table[0]))
    rewards, transitions = np.zeros(size), np.zeros((*size, size[0]))
    for cell, actions in table.items():
        for action, outcomes in actions.items():
            for probability, landed, reward, terminated in outcomes:
                rewards[cell, action] += probability * reward
                transitions[cell, action, landed] += probability * (not terminated)
    return Model(rewards, transitions)


@dataclass(frozen=True)
class DaviaSettings:
    """What centre and agents agree on.

    :param population: A.
    :param lr: eta > 0.
    :param epsilon: Share of random actions, in [0, 1].
    :param features: phi of each cell ``[C, D]``; ``None``: one of their own for each.
    :param communication_kwargs: Settings of :class:`~rl_agg.gates.GainThreshold`.
    :raises ValueError: if one of them cannot be.
    """

    population: int = 5
    lr: float = 1.0
    epsilon: float = 0.1
    features: ArrayLike | None = None
    communication_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_tabular(self)
        self.make_gate()
        if self.features is not None:
            _matrix(self.features)

    def make_gate(self) -> GainThreshold:
        """The threshold."""
        return build("DAVIA's threshold", GainThreshold, self.communication_kwargs)

    def make_features(self, num_cells: int) -> Floats:
        """phi ``[C, D]``.

        :raises ValueError: if there are not C rows.
        """
        features = np.eye(num_cells) if self.features is None else _matrix(self.features)
        if len(features) != num_cells:
            raise ValueError(f"features must be finite numbers [C, D] with C = {num_cells} cells, got shape {features.shape}")
        return features


def _matrix(features: ArrayLike) -> Floats:
    try:
        found = np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError) as error:  # no numbers, or rows of unequal length
        raise ValueError(f"features must be finite numbers [C, D]: {error}") from error
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(f"features must be finite numbers [C, D], got shape {found.shape}")
    return found


def gradient_and_gain(theta: Floats, seen: Floats, targets: Floats, lr: float) -> tuple[Floats, float]:
    """What an agent could send, and what that would change.

    :param theta: ``[D]``.
    :param seen: Features of the cells that it was in ``[T, D]``.
    :param targets: y ``[T]``.
    :param lr: eta.
    :return: The gradient ``[D]``, and delta.
    """
    gradient = seen.T @ (seen @ theta - targets) / len(seen)
    curvature = float(np.square(seen @ gradient).mean())
    return gradient, -2 * lr * float(gradient @ gradient) + lr**2 * curvature


class DaviaAgents:
    """Runs any of the agents, and the greedy centre, whose number is A.

    :param episodes: Runs the episodes.
    :param settings: As the centre's.
    :raises ValueError: if the environment has no model, or the features do not fit it.
    """

    def __init__(self, episodes: TabularEpisodes, settings: DaviaSettings) -> None:
        self.episodes = episodes
        self.settings = settings
        self.model = model_of(episodes.environments)
        self.features = settings.make_features(episodes.shape[0])
        self._gate = settings.make_gate()

    def close(self) -> None:
        """Close the environments."""
        self.episodes.environments.close()

    def run(self, order: TabularOrder, agents: NDArray[np.int64]) -> Report:
        """Run an episode with each.

        :param agents: Which, in [0, A], ascending ``[k]``.
        """
        theta = order.theta.astype(np.float64)
        values, gamma = self.features @ theta, self.episodes.gamma
        table = self.model.action_values(values, gamma)
        ran = run_episodes(self.episodes, order, agents, table, epsilon=self.settings.epsilon)
        senders, gradients = [], []
        for row, agent in enumerate(agents[agents < self.settings.population].tolist()):
            if not np.isfinite(ran.returns[row]):
                continue
            cells, _, rewards, next_cells, goes_on = unpacked(ran.transitions[row])
            targets = rewards + gamma * goes_on * values[next_cells]
            gradient, gain = gradient_and_gain(theta, self.features[cells], targets, self.settings.lr)
            if self._gate.decide(gain, order.update):
                senders.append(agent)
                gradients.append(gradient)
        return Report(
            agents,
            ran.returns,
            ran.discounted,
            ran.lengths,
            np.empty((len(agents), 0)),
            np.array(senders, dtype=AGENT_ID),
            {"gradient": np.array(gradients, dtype=np.float32).reshape(len(gradients), len(theta))},
        )


class DaviaLearner(TabularCentre):
    """The centre.

    :param features: phi ``[C, D]``.
    :param model: Of the environment.
    :param gamma: Discount in [0, 1].
    :param run: See :class:`TabularCentre`.
    :param settings: As the agents'.
    """

    def __init__(
        self, features: Floats, model: Model, *, gamma: float, run: int | None = None, settings: DaviaSettings
    ) -> None:
        super().__init__(np.zeros(features.shape[1], dtype=np.float32), settings.population, 0, run)
        self.features, self.model, self.gamma, self.settings = features, model, gamma, settings

    @property
    def action_values(self) -> NDArray[np.float32]:
        """What agents act on ``[C, U]``."""
        values = self.features @ self.theta.astype(np.float64)
        return self.model.action_values(values, self.gamma).astype(np.float32)

    def learn(self, report: Report) -> None:
        """Step by the mean of the gradients."""
        mean = report.payload["gradient"].astype(np.float64).mean(axis=0)
        self.theta = (self.theta.astype(np.float64) - self.settings.lr * mean).astype(np.float32)

    def content(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """A gradient."""
        return {"gradients": self.theta.size}
