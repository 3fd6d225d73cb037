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
from rllib_agg.envs.team.interface import Bools, Floats, TeamSpec, TeamStep, TeamView


@dataclass(frozen=True, slots=True)
class SingleView:
    """One copy's row of a :class:`~rllib_agg.envs.team.interface.TeamView`: ``[n, d]``, ``[s]`` and ``[n, a]``."""

    observations: Floats
    state: Floats
    masks: Bools


@dataclass(frozen=True, slots=True)
class SingleStep:
    """One copy's row of a :class:`~rllib_agg.envs.team.interface.TeamStep`; ``agent_rewards`` ``[n]``, or ``None``."""

    view: SingleView
    reward: float
    agent_rewards: Floats | None = None
    terminated: bool = False
    truncated: bool = False
    won: bool = False
    lost: bool = False


class SingleTeamEnv(Protocol):
    """One copy of a team's environment; :class:`SequentialTeams` enforces its time limit."""

    spec: TeamSpec

    def reset(self, seed: int) -> SingleView:
        """Begin an episode."""

    def step(self, actions: Sequence[int]) -> SingleStep:
        """Step by legal actions ``[n]``."""

    def close(self) -> None:
        """Release all resources."""


class SequentialTeams:
    """E copies, each stepped only while its episode is active.

    :param credit: With ``team``, steps have no agent rewards.
    :param can_break: Whether an episode may be lost.
    """

    def __init__(self, make: Callable[[int], SingleTeamEnv], num_envs: int, *, credit: str, can_break: bool = False) -> None:
        self.num_envs = num_envs
        self._credit, self._can_break = credit, can_break
        self.copies: list[SingleTeamEnv] = []
        try:
            for index in range(num_envs):
                self.copies.append(make(index))
        except BaseException:
            self.close()
            raise
        self.spec = spec = self.copies[0].spec
        self._active = np.zeros(num_envs, dtype=np.bool_)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._observations = np.zeros((num_envs, spec.num_agents, spec.observation_size), dtype=np.float32)
        self._states = np.zeros((num_envs, spec.state_size), dtype=np.float32)
        self._masks = np.zeros((num_envs, spec.num_agents, spec.num_actions), dtype=np.bool_)
        self._masks[:, :, 0] = True

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        """Begin a new episode in some of the copies."""
        for index in np.flatnonzero(which).tolist():
            self._store(index, self.copies[index].reset(int(seeds[index])))
            self._active[index], self._steps[index] = True, 0
        return self._view()

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Step the active copies; the others stay as they are."""
        check_actions(actions, self._masks, self._active)
        size = self.num_envs
        rewards = np.zeros(size, dtype=np.float32)
        agent_rewards = None if self._credit == "team" else np.zeros((size, self.spec.num_agents), dtype=np.float32)
        terminated, truncated, won, lost = (np.zeros(size, dtype=np.bool_) for _ in range(4))
        self._steps += self._active
        for index in np.flatnonzero(self._active).tolist():
            step = self.copies[index].step(actions[index].tolist())
            self._store(index, step.view, over=step.terminated or step.truncated)
            rewards[index] = step.reward
            if agent_rewards is not None and step.agent_rewards is not None:
                agent_rewards[index] = step.agent_rewards
            terminated[index], truncated[index] = step.terminated, step.truncated
            won[index], lost[index] = step.won, step.lost
        truncated |= self._active & ~terminated & (self._steps >= self.spec.max_episode_steps)
        self._active &= ~(terminated | truncated)
        known = won if self.spec.has_wins else None
        return TeamStep(self._view(), rewards, agent_rewards, terminated, truncated, known, lost if self._can_break else None)

    def render(self) -> NDArray[np.uint8]:
        """Draw the first copy ``[height, width, 3]``."""
        copy: Any = self.copies[0]
        picture: NDArray[np.uint8] = copy.render()
        return picture

    def close(self) -> None:
        """Close all copies."""
        for copy in self.copies:
            copy.close()

    def _store(self, index: int, view: SingleView, *, over: bool = False) -> None:
        self._observations[index], self._states[index], self._masks[index] = view.observations, view.state, view.masks
        stuck = ~view.masks.any(axis=1)
        if over:  # no action follows, but the interface promises a legal one
            self._masks[index, stuck, 0] = True
        elif stuck.any():
            raise ValueError(
                f"agent {int(stuck.argmax())} has no legal action after {self._steps[index]} steps: its mask is all zero; "
                "give it an action that does nothing"
            )

    def _view(self) -> TeamView:
        return TeamView(self._observations.copy(), self._states.copy(), self._masks.copy())
