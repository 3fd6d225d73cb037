"""Copies of an environment that steps one episode at a time, stepped one after the other.

Axes: E environments, n agents, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.credits import check_actions
from rllib_agg.envs.team.team import Bools, Floats, TeamSpec, TeamStep, TeamView


@dataclass(frozen=True, slots=True)
class Seen:
    """One copy's row of a :class:`~rllib_agg.envs.team.team.TeamView`: ``[n, d]``, ``[s]`` and ``[n, a]``."""

    observations: Floats
    state: Floats
    masks: Bools


@dataclass(frozen=True, slots=True)
class Outcome:
    """One copy's row of a :class:`~rllib_agg.envs.team.team.TeamStep`; ``agent_rewards`` ``[n]``, ``None`` if it has none."""

    seen: Seen
    reward: float
    agent_rewards: Floats | None = None
    terminated: bool = False
    truncated: bool = False
    won: bool = False
    lost: bool = False


class OneTeam(Protocol):
    """One copy of a team's environment. Its time limit is kept for it."""

    spec: TeamSpec

    def reset(self, seed: int) -> Seen:
        """Begin an episode."""

    def step(self, actions: Sequence[int]) -> Outcome:
        """Step on.

        :param actions: ``[n]``, legal ones.
        """

    def close(self) -> None:
        """Let go of what it holds."""


class ListedTeams:
    """E copies, each stepped only while its episode goes on.

    :param make: Makes one copy, given its number.
    :param num_envs: E.
    :param credit: ``team`` leaves the agents' rewards out.
    :param can_break: Whether an episode may be lost.
    """

    def __init__(self, make: Callable[[int], OneTeam], num_envs: int, *, credit: str, can_break: bool = False) -> None:
        self.num_envs = num_envs
        self._credit, self._can_break = credit, can_break
        self._teams: list[OneTeam] = []
        try:
            for index in range(num_envs):
                self._teams.append(make(index))
        except BaseException:
            self.close()
            raise
        self.spec = spec = self._teams[0].spec
        self._going = np.zeros(num_envs, dtype=np.bool_)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._observations = np.zeros((num_envs, spec.num_agents, spec.observation_size), dtype=np.float32)
        self._states = np.zeros((num_envs, spec.state_size), dtype=np.float32)
        self._masks = np.zeros((num_envs, spec.num_agents, spec.num_actions), dtype=np.bool_)
        self._masks[:, :, 0] = True

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        """Begin a new episode in some of the copies."""
        for index in np.flatnonzero(which).tolist():
            self._look(index, self._teams[index].reset(int(seeds[index])))
            self._going[index], self._steps[index] = True, 0
        return self._view()

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Step those whose episode goes on; the others stay as they are."""
        check_actions(actions, self._masks, self._going)
        size = self.num_envs
        rewards = np.zeros(size, dtype=np.float32)
        agent_rewards = None if self._credit == "team" else np.zeros((size, self.spec.num_agents), dtype=np.float32)
        terminated, truncated, won, lost = (np.zeros(size, dtype=np.bool_) for _ in range(4))
        self._steps += self._going
        for index in np.flatnonzero(self._going).tolist():
            outcome = self._teams[index].step(actions[index].tolist())
            self._look(index, outcome.seen, over=outcome.terminated or outcome.truncated)
            rewards[index] = outcome.reward
            if agent_rewards is not None and outcome.agent_rewards is not None:
                agent_rewards[index] = outcome.agent_rewards
            terminated[index], truncated[index] = outcome.terminated, outcome.truncated
            won[index], lost[index] = outcome.won, outcome.lost
        truncated |= self._going & ~terminated & (self._steps >= self.spec.max_episode_steps)
        self._going &= ~(terminated | truncated)
        known = won if self.spec.has_wins else None
        return TeamStep(self._view(), rewards, agent_rewards, terminated, truncated, known, lost if self._can_break else None)

    def render(self) -> NDArray[np.uint8]:
        """Draw the first copy ``[height, width, 3]``."""
        team: Any = self._teams[0]
        picture: NDArray[np.uint8] = team.render()
        return picture

    def close(self) -> None:
        """Close all of them."""
        for team in self._teams:
            team.close()

    def _look(self, index: int, seen: Seen, *, over: bool = False) -> None:
        self._observations[index], self._states[index], self._masks[index] = seen.observations, seen.state, seen.masks
        stuck = ~seen.masks.any(axis=1)
        if over:  # nobody acts on it, and the protocol promises one
            self._masks[index, stuck, 0] = True
        elif stuck.any():
            raise ValueError(
                f"agent {int(stuck.argmax())} has no legal action after {self._steps[index]} steps: its mask is all zero; "
                "give it an action that does nothing"
            )

    def _view(self) -> TeamView:
        return TeamView(self._observations.copy(), self._states.copy(), self._masks.copy())
