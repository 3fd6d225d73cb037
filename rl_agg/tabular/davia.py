r"""Distributed approximate value iteration. Axes: A agents, C cells, U actions, T steps, D features.

With :math:`V = \theta^\top \varphi` and targets :math:`y_t = r_t + \gamma V(s_{t+1})`, where V is 0 after a terminal step, an
agent computes

.. math:: \hat g = \frac{1}{T} \sum_t \varphi_t (\theta^\top \varphi_t - y_t), \qquad
    \delta = J(\theta - \eta \hat g) - J(\theta) = -2 \eta \lVert \hat g \rVert^2 + \eta^2 \hat g^\top \hat H \hat g, \qquad
    \hat H = \frac{1}{T} \sum_t \varphi_t \varphi_t^\top

with J the mean squared error of its own episode, targets held; it sends :math:`\hat g` if :math:`\delta` is below a threshold,
see :class:`~rl_agg.gates.GainThreshold`. The server steps by :math:`-\eta` times the mean of what it received.

Acting greedily on V takes a model of the environment: agents must know where actions lead, which Q-learning does not
require.

Source: Gatsis (2021), arXiv:2112.05908; Gunn (2023), section 2.4.3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rl_agg.gates import GainThreshold, Offer, VectorGate, decided
from rl_agg.population.environments import ListedEnvironments
from rl_agg.population.reports import Report
from rl_agg.signals import Signals
from rl_agg.tabular.episodes import TabularEpisodes, unpacked
from rl_agg.tabular.features import make_features, matrix
from rl_agg.tabular.server import Floats, TabularAgents, TabularServer, TabularSettings


@dataclass(frozen=True)
class Model:
    """Where actions lead.

    :param rewards: Expected reward ``[C, U]``.
    :param transitions: Probability of each next cell from which the episode continues ``[C, U, C]``.
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
class DaviaSettings(TabularSettings):
    """Settings of DAVIA; see :class:`TabularSettings`.

    :param features: phi of each cell ``[C, D]``; ``None``: one feature for each cell.
    """

    payload = "gradients"
    gate_class = GainThreshold
    provides = frozenset({"gains"})

    communication: str = "gain"
    features: ArrayLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features is not None:
            matrix("features", "[C, D]", self.features)


def gradient_and_gain(theta: Floats, seen: Floats, targets: Floats, lr: float) -> tuple[Floats, float]:
    """What an agent could send, and how that would change its loss.

    :param theta: ``[D]``.
    :param seen: Features of the visited cells ``[T, D]``.
    :param targets: y ``[T]``.
    :param lr: eta.
    :return: The gradient ``[D]``, and delta.
    """
    gradient = seen.T @ (seen @ theta - targets) / len(seen)
    curvature = float(np.square(seen @ gradient).mean())
    return gradient, -2 * lr * float(gradient @ gradient) + lr**2 * curvature


class DaviaAgents(TabularAgents):
    """Runs the episodes of DAVIA.

    :param episodes: Runs the episodes.
    :param settings: As the server's.
    :raises ValueError: if the environment has no model, or the features do not fit it.
    """

    def __init__(self, episodes: TabularEpisodes, settings: DaviaSettings) -> None:
        super().__init__(episodes, settings)
        self.lr = settings.lr
        self.model = model_of(episodes.environments)
        self.features = make_features(settings.features, episodes.shape[0])
        gate = settings.make_gate()
        assert isinstance(gate, VectorGate)
        self._gate = gate

    def action_values(self, theta: Floats) -> Floats:
        """By the environment's model."""
        return self.model.action_values(self.features @ theta, self.episodes.gamma)

    def empty_message(self, theta: Floats) -> NDArray[np.float32]:
        """No gradient."""
        return np.empty((0, len(theta)), dtype=np.float32)

    def message(
        self, theta: Floats, rows: NDArray[np.void], memory: Floats, update: int
    ) -> tuple[NDArray[np.float32], Floats]:
        """The gradient, if it gains enough."""
        cells, _, rewards, next_cells, continues = unpacked(rows)
        targets = rewards + self.episodes.gamma * continues * (self.features @ theta)[next_cells]
        gradient, gain = gradient_and_gain(theta, self.features[cells], targets, self.lr)
        vectors, present = torch.from_numpy(gradient[None]), torch.ones(1, dtype=torch.bool)
        # The agent is alone, and remembers nothing of what it has sent
        offer = Offer(vectors, torch.zeros_like(vectors), ~present, present, update, gains=vectors.new_tensor([gain]))
        sends = bool(decided(self._gate, offer))
        with np.errstate(over="ignore"):  # the server masks what overflows
            return np.array([gradient] if sends else self.empty_message(theta), dtype=np.float32), memory


class DaviaLearner(TabularServer):
    """The server.

    :param features: phi ``[C, D]``.
    :param model: Of the environment.
    :param gamma: Discount in [0, 1].
    :param run: See :class:`~rl_agg.population.server.PopulationServer`.
    :param settings: As the agents'.
    """

    def __init__(
        self, features: Floats, model: Model, *, gamma: float, run: int | None = None, settings: DaviaSettings
    ) -> None:
        super().__init__(np.zeros(features.shape[1], dtype=np.float32), settings, 0, run)
        self.features, self.model, self.gamma, self.settings = features, model, gamma, settings

    @property
    def action_values(self) -> NDArray[np.float32]:
        """What agents act on ``[C, U]``."""
        values = self.features @ self.theta.astype(np.float64)
        return self.model.action_values(values, self.gamma).astype(np.float32)

    @np.errstate(over="ignore", invalid="ignore")  # a step that overflows is skipped
    def learn(self, report: Report, present: NDArray[np.bool_]) -> None:
        """Step by the mean of the finite gradients, if any arrived.

        The others are counted as masked; an update of which none is left, or whose step is not finite, as skipped.
        """
        gradients = report.payload["gradients"].astype(np.float64)
        if not len(gradients):
            return
        finite = np.isfinite(gradients).all(1)
        self.num_masked += int((~finite).sum())
        senders = report.senders[finite]
        sends = torch.from_numpy(np.isin(np.arange(self.num_agents), senders))
        weights = self.exchange.weigh(Signals(present=sends)).numpy()[senders]
        theta = (self.theta.astype(np.float64) - self.settings.lr * (weights @ gradients[finite])).astype(np.float32)
        if finite.any() and np.isfinite(theta).all():
            self.theta = theta
        else:
            self.num_skipped += 1

    def message_content(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """A gradient."""
        return {"gradients": self.theta.size}
