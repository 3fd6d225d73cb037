"""Small games with a known solution: the two-step game of the QMIX paper, the climbing game, the penalty game, and the game of
the QTRAN paper that no monotonic mixer can express.

Axes: E environments, n = 2 agents, a actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_choice, check_number, check_settings
from rllib_agg.envs.team.credits import check_actions, check_credit
from rllib_agg.envs.team.interface import Bools, TeamSpec, TeamStep, TeamView

Payoffs = NDArray[np.float32]

CHOICES: Payoffs = np.array([[[7, 7], [7, 7]], [[0, 1], [1, 8]]], dtype=np.float32)
"""Payoffs of the two-step game, by the first agent's first action and both agents' second ones."""


def climbing() -> list[Payoffs]:
    """The best cell is surrounded by penalties. Source: Claus and Boutilier (1998)."""
    return [np.array([[11, -30, 0], [-30, 7, 6], [0, 0, 5]], dtype=np.float32)]


def nonmonotonic() -> list[Payoffs]:
    """Both must choose the first action for the best cell; on average it pays least. Source: Son et al. (2019), table 1."""
    return [np.array([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]], dtype=np.float32)]


def penalty(*, penalty: float = -100.0) -> list[Payoffs]:
    """Two good corners, with a penalty for choosing different ones. Source: Claus and Boutilier (1998).

    :param penalty: At most 0.
    """
    check_number("penalty", penalty, most=0)
    return [np.array([[10, 0, penalty], [0, 2, 0], [penalty, 0, 10]], dtype=np.float32)]


def two_step() -> list[Payoffs]:
    """The first agent's first action chooses the game of the second step. Source: Rashid et al. (2018), table 1."""
    return [np.zeros((2, 2), dtype=np.float32), *CHOICES]


GAMES = {"climbing": climbing, "nonmonotonic": nonmonotonic, "penalty": penalty, "two_step": two_step}
"""By name, payoffs of the only step, or of the first step and each possible second one."""


class MatrixTeams:
    """E copies of a game in which both agents observe the current payoffs.

    :param payoffs: One matrix for one step; more for two, where the first agent's first action chooses the second matrix.
    :param num_envs: E.
    """

    def __init__(self, payoffs: list[Payoffs], num_envs: int) -> None:
        self._payoffs = np.stack(payoffs)  # [states, a, a]
        self._last_step = len(payoffs) == 1
        states, num_actions = self._payoffs.shape[:2]
        self.num_envs = num_envs
        self.spec = TeamSpec(2, num_actions, states, states, 1 if self._last_step else 2, ("player", "player"))
        self._states = np.zeros(num_envs, dtype=np.int64)
        self._active = np.zeros(num_envs, dtype=np.bool_)

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        """Begin a new game in some of the copies; nothing is random."""
        self._states[which] = 0
        self._active[which] = True
        return self._view()

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Pay, and after the first of two steps switch to the chosen matrix."""
        view = self._view()
        check_actions(actions, view.masks, self._active)
        first = (self._states == 0) & (not self._last_step)
        rewards = self._payoffs[self._states, actions[:, 0], actions[:, 1]]
        self._states = np.where(first, 1 + actions[:, 0], self._states)
        self._active &= first
        return TeamStep(self._view(), rewards, None, ~first, np.zeros_like(first))

    def close(self) -> None:
        """Nothing to release."""

    def _view(self) -> TeamView:
        states = np.eye(self.spec.state_size, dtype=np.float32)[self._states]
        masks = np.ones((self.num_envs, 2, self.spec.num_actions), dtype=np.bool_)
        return TeamView(np.repeat(states[:, None], 2, axis=1), states, masks)


def make_matrix_game(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> MatrixTeams:
    """Make E copies of a game of :data:`GAMES`."""
    check_choice("matrix game", task, GAMES)
    check_credit(f"matrix/{task}", credit, ())
    check_settings(f"matrix/{task}", GAMES[task], settings)
    return MatrixTeams(GAMES[task](**settings), num_envs)
