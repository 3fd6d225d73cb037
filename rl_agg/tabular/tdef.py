r"""Temporal-difference learning with compressed updates and error feedback. Axes: A agents, C cells, U actions, T steps, D
features.

Agent i computes the direction of TD(0), the mean over the steps of its episode,

.. math:: g_i = \frac{1}{T} \sum_t \delta_t \, \varphi(s_t), \qquad
    \delta_t = r_t + \gamma \, \theta^\top \varphi(s_{t+1}) - \theta^\top \varphi(s_t)

where the value of what comes after a terminal step is 0. It sends that direction with what compression has lost before, and
the server steps by the mean of what it decodes:

.. math:: h_i = Q(e_i + g_i), \qquad e_i \leftarrow e_i + g_i - h_i, \qquad
    \theta \leftarrow \theta + \frac{\alpha}{A} \sum_i h_i

with a codec Q that leaves less than it was given. Agents act by a policy whose values are sought. For control they act
greedily on values of actions, :math:`Q(s, a) = \theta_a^\top \varphi(s)`, and the target is Q-learning's,
:math:`r_t + \gamma \max_b Q(s_{t+1}, b)`.

Source: Mitra, Pappas and Hassani (2023), Temporal Difference Learning with Compressed Updates: Error-Feedback meets
Reinforcement Learning, arXiv:2301.00944. Differs: their agents send a direction after each step, and these after each
episode; their analysis of one agent projects the parameters onto a ball, which is not done here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rl_agg.codecs import Compression
from rl_agg.gates import VectorGate
from rl_agg.population.reports import Report
from rl_agg.scheme import Scheme, make_scheme
from rl_agg.signals import Signals
from rl_agg.tabular.episodes import TabularEpisodes, sample_actions, unpacked
from rl_agg.tabular.features import make_features, matrix
from rl_agg.tabular.server import Floats, TabularAgents, TabularServer, TabularSettings
from rl_agg.validation import check_choice

POLICIES = ("uniform", "greedy")
EPSILON = 0.1
LEAST_PROBABILITY = 1e-30
"""Actions of less have the logarithm of this, so that logarithms are finite."""


@dataclass(frozen=True)
class TdefSettings(TabularSettings):
    """Settings of TD-EF; see :class:`TabularSettings`.

    :param policy: Whose values are sought: ``uniform``, all actions alike; or probabilities of the actions of each cell ``[C,
        U]``. ``greedy``: control, the values of actions of the best policy.
    :param epsilon: Share of random actions of ``greedy`` agents; another policy has none.
    :param features: phi of each cell ``[C, D]``; ``None``: one feature for each cell.
    :param communication: The gate, one over gradients.
    :param compression: How directions are encoded; see :data:`~rl_agg.codecs.Compression`.
    :param compression_kwargs: Settings of ``compression``, and ``error_feedback``.
    """

    payload = "gradients"
    gate_class = VectorGate

    epsilon: float = EPSILON
    policy: str | ArrayLike = "uniform"
    features: ArrayLike | None = None
    compression: Compression = "top_k"
    compression_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features is not None:
            matrix("features", "[C, D]", self.features)
        if isinstance(self.policy, str):
            check_choice("policy", self.policy, POLICIES)
        else:
            _probabilities(self.policy)
        if not self.is_control and self.epsilon != EPSILON:
            raise ValueError(
                f"epsilon={self.epsilon!r} is of agents with policy='greedy'; leave it out where another policy's values "
                "are sought"
            )

    @property
    def is_control(self) -> bool:
        """Whether agents act on what was learned, instead of by a policy whose values are sought."""
        return isinstance(self.policy, str) and self.policy == "greedy"

    @property
    def scheme(self) -> Scheme:
        """Gate, codec with error feedback, and the mean."""
        return make_scheme(
            "mean",
            communication=self.communication,
            communication_kwargs=self.communication_kwargs,
            compression=self.compression,
            compression_kwargs=self.compression_kwargs,
            payload=self.payload,
        )

    def make_policy(self, shape: tuple[int, int]) -> Floats:
        """Probabilities of the actions of each cell ``[C, U]``, where a policy's values are sought.

        :param shape: C and U.
        :raises ValueError: if there are not as many.
        """
        if isinstance(self.policy, str):
            return np.full(shape, 1 / shape[1])
        probabilities = _probabilities(self.policy)
        if probabilities.shape != shape:
            raise ValueError(f"policy must be probabilities [C, U] = {list(shape)}, got shape {probabilities.shape}")
        return probabilities


def _probabilities(policy: ArrayLike) -> Floats:
    found = matrix("policy", "[C, U]", policy)
    if (found < 0).any() or not np.allclose(found.sum(axis=1), 1):
        raise ValueError(f"policy must be probabilities [C, U] that sum to 1 in each cell, got {found.tolist()}")
    return found


def td_direction(theta: Floats, features: Floats, rows: NDArray[np.void], gamma: float) -> Floats:
    """The mean direction of an episode.

    :param theta: ``[D, 1]`` for values of cells, ``[D, U]`` for values of actions.
    :param features: phi ``[C, D]``.
    :param rows: Transitions ``[T]``.
    :param gamma: Discount.
    :return: As ``theta``.
    """
    cells, actions, rewards, next_cells, continues = unpacked(rows)
    taken = np.eye(theta.shape[1])[actions if theta.shape[1] > 1 else np.zeros_like(actions)]  # [T, U]
    values = features @ theta
    errors = rewards + gamma * continues * values[next_cells].max(axis=1) - (values[cells] * taken).sum(axis=1)
    direction: NDArray[np.float64] = features[cells].T @ (errors[:, None] * taken) / len(rows)
    return direction


class TdefAgents(TabularAgents):
    """Runs the episodes of TD-EF.

    :param episodes: Runs the episodes.
    :param settings: As the server's.
    :raises ValueError: if the features or the policy do not fit the environment.
    """

    def __init__(self, episodes: TabularEpisodes, settings: TdefSettings) -> None:
        super().__init__(episodes, settings)
        self.features = make_features(settings.features, episodes.shape[0])
        self.policy = None if settings.is_control else settings.make_policy(episodes.shape)
        if self.policy is not None:
            self.choose = sample_actions

    def action_values(self, theta: Floats) -> Floats:
        """The policy's probabilities, or what was learned."""
        return self.features @ self._columns(theta) if self.policy is None else self.policy

    def _columns(self, theta: Floats) -> Floats:
        return theta.reshape(self.features.shape[1], -1)

    def empty_message(self, theta: Floats) -> NDArray[np.float32]:
        """No direction."""
        return np.empty((0, len(theta)), dtype=np.float32)

    def message(
        self, theta: Floats, rows: NDArray[np.void], memory: Floats, update: int
    ) -> tuple[NDArray[np.float32], Floats]:
        """The direction; gate and codec see it at the server, which also has what each agent remembers of its errors."""
        direction = td_direction(self._columns(theta), self.features, rows, self.episodes.gamma)
        return direction.reshape(1, -1).astype(np.float32), memory


class TdefLearner(TabularServer):
    """The server.

    :param features: phi ``[C, D]``.
    :param policy: Probabilities of actions ``[C, U]`` whose values are sought; ``None``: control.
    :param num_actions: U.
    :param gamma: Discount in [0, 1].
    :param run: See :class:`~rl_agg.population.server.PopulationServer`.
    :param settings: As the agents'.
    """

    def __init__(
        self,
        features: Floats,
        policy: Floats | None,
        num_actions: int,
        *,
        gamma: float,
        run: int | None = None,
        settings: TdefSettings,
    ) -> None:
        columns = num_actions if policy is None else 1
        super().__init__(np.zeros(features.shape[1] * columns, dtype=np.float32), settings, 0, run)
        self.features, self.policy, self.gamma, self.settings = features, policy, gamma, settings

    @property
    def values(self) -> NDArray[np.float32]:
        """Of the cells ``[C]``: the policy's, or those of the best action."""
        best: NDArray[np.float32] = self._estimates.max(axis=1).astype(np.float32)
        return best

    @property
    def action_values(self) -> NDArray[np.float32]:
        """What agents act on ``[C, U]``; where a policy's values are sought, the logarithms of its probabilities."""
        if self.policy is not None:
            return np.log(np.maximum(self.policy, LEAST_PROBABILITY)).astype(np.float32)
        return self._estimates.astype(np.float32)

    @property
    def _estimates(self) -> NDArray[np.float64]:
        estimates: NDArray[np.float64] = self.features @ self.theta.astype(np.float64).reshape(self.features.shape[1], -1)
        return estimates

    def learn(self, report: Report, present: NDArray[np.bool_]) -> None:
        """Step by the mean of what the server decodes."""
        directions = np.zeros((self.num_agents, self.theta.size), dtype=np.float32)
        directions[report.senders] = report.payload["gradients"]
        merged = self.exchange.merge(torch.from_numpy(directions), Signals(present=torch.from_numpy(present)))
        direction: NDArray[np.float32] = merged.vector.numpy()
        self.theta = self.theta + np.float32(self.settings.lr) * direction

    def charge(self, report: Report, down: Mapping[str, Any]) -> None:
        """Count the broadcast of an update in which nothing was merged; the exchange has counted the others."""
        if not report.senders.size:
            self.exchange.charge_answers(np.ones(self.num_agents, dtype=np.bool_), self.theta.size)
