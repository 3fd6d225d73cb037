"""What a team's environment is. Axes: E environments, n agents, d and s sizes of an observation and of the state, a actions.

Many copies of one environment step together, and none resets by itself: the observation after the last step is the last one of
its episode, and whoever steps says when and which copies begin again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TeamSpec:
    """Sizes of a team's world.

    :param num_agents: n, at least 1.
    :param num_actions: a, of the agent that has most.
    :param observation_size: d, of the agent that sees most; the others' are padded with zeros.
    :param state_size: s.
    :param max_episode_steps: T, after which an episode is cut off.
    :param agent_types: A name for each agent; those of one type may share what others do not.
    :param credits: Which of ``contribution`` and ``env`` the steps' ``agent_rewards`` can be; empty where a team has one
        reward and nobody knows whose merit it is.
    :param has_wins: Whether steps tell a won episode.
    """

    num_agents: int
    num_actions: int
    observation_size: int
    state_size: int
    max_episode_steps: int
    agent_types: tuple[str, ...]
    credits: frozenset[str] = frozenset()
    has_wins: bool = False


@dataclass(frozen=True, slots=True)
class TeamView:
    """What is seen before the team acts.

    :param observations: ``[E, n, d]``.
    :param states: ``[E, s]``, of the whole world.
    :param masks: Which actions are legal ``[E, n, a]``; at least one of each agent's is.
    """

    observations: Floats
    states: Floats
    masks: Bools


@dataclass(frozen=True, slots=True)
class TeamStep:
    """What came of the team's actions.

    :param view: What is seen now.
    :param rewards: The team's ``[E]``.
    :param agent_rewards: By the credit that was asked for ``[E, n]``; ``None`` for ``team``.
    :param terminated: The episode has ended by itself ``[E]``.
    :param truncated: It was cut off, by the time limit or a fault ``[E]``.
    :param won: It has ended and was won ``[E]``; ``None`` where nobody can tell.
    :param lost: It broke down and must be thrown away, not learned from ``[E]``; ``None`` where that cannot be.
    """

    view: TeamView
    rewards: Floats
    agent_rewards: Floats | None
    terminated: Bools
    truncated: Bools
    won: Bools | None = None
    lost: Bools | None = None


class TeamEnv(Protocol):
    """E copies of a team's environment."""

    spec: TeamSpec
    num_envs: int

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        """Begin a new episode in some of the copies.

        :param which: In which ``[E]``.
        :param seeds: One for each copy ``[E]``; those of the others are not looked at.
        :return: What is seen in all copies.
        """

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Step all copies; what comes of those whose episode is over means nothing.

        :param actions: ``[E, n]``, legal ones.
        """

    def close(self) -> None:
        """Let go of what they hold."""


class MakesTeamEnv(Protocol):
    """What is registered under a backend's name."""

    def __call__(self, task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> TeamEnv:
        """Make E copies.

        :param task: A map, scenario or environment of the backend.
        :param num_envs: E.
        :param credit: What ``agent_rewards`` are: ``contribution``, ``env`` or ``team``.
        :param settings: The user's ``env_config``.
        :raises ValueError: naming the choices, if there is no such task or setting.
        :raises ImportError: naming the extra, if the backend is not installed.
        """
