"""The interface of a team's environment: E copies that step together.

No copy resets by itself: after the last step of an episode the view is its last one, and the caller decides when and which
copies begin again. Axes: E environments, n agents, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TeamSpec:
    """Sizes of a team's environment.

    :param num_agents: n, at least 1.
    :param num_actions: a, the largest number of any agent.
    :param observation_size: d, the largest size of any agent; shorter observations are padded with zeros.
    :param state_size: s.
    :param max_episode_steps: T, after which an episode is truncated.
    :param agent_types: A name for each agent; agents of one type may share what others do not.
    :param credits: Which of ``contribution`` and ``env`` the steps' ``agent_rewards`` can be; empty where only the team's
        reward is known.
    :param has_wins: Whether steps report a won episode.
    :param limit_is_end: Whether the time limit is part of the task, so that nothing is to be expected after it; else it is
        technical.
    """

    num_agents: int
    num_actions: int
    observation_size: int
    state_size: int
    max_episode_steps: int
    agent_types: tuple[str, ...]
    credits: frozenset[str] = frozenset()
    has_wins: bool = False
    limit_is_end: bool = False


@dataclass(frozen=True, slots=True)
class TeamView:
    """The input of the team's next actions.

    :param observations: ``[E, n, d]``.
    :param states: State of the whole environment ``[E, s]``.
    :param masks: Legal actions ``[E, n, a]``, at least one for each agent.
    """

    observations: Floats
    states: Floats
    masks: Bools


@dataclass(frozen=True, slots=True)
class TeamStep:
    """The result of the team's actions.

    :param view: The view after the step.
    :param rewards: The team's ``[E]``.
    :param agent_rewards: By the chosen credit ``[E, n]``; ``None`` for ``team``.
    :param terminated: The episode has ended by itself ``[E]``.
    :param truncated: It was cut off, by the time limit or a fault ``[E]``.
    :param won: It has ended and was won ``[E]``; ``None`` where the environment has no wins.
    :param lost: It broke down and must be discarded, not learned from ``[E]``; ``None`` where that cannot happen.
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
        :param seeds: One for each copy ``[E]``; those of the other copies are ignored.
        :return: The view of all copies.
        """

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Step all copies; results of those whose episode is over are meaningless.

        :param actions: Legal ones ``[E, n]``.
        """

    def close(self) -> None:
        """Release all resources."""


@runtime_checkable
class CompilableTeamEnv(TeamEnv, Protocol):
    """A team's environment whose copies are pure functions of JAX arrays: whole episodes of it are one compiled loop."""

    credit: str

    def pure_world(self) -> Any:
        """The functions of one copy, see :class:`~rllib_agg.envs.smax.world.SmaxWorld`; ``None``: it must be stepped."""

    def keys(self, seeds: NDArray[np.int64]) -> NDArray[Any]:
        """The keys ``[E, 2]`` that episodes begin from, by their seeds ``[E]``."""


class TeamEnvMaker(Protocol):
    """A registered backend."""

    def __call__(self, task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> TeamEnv:
        """Make E copies.

        :param task: A map, scenario or environment of the backend.
        :param num_envs: E.
        :param credit: Meaning of ``agent_rewards``: ``contribution``, ``env`` or ``team``.
        :param settings: The user's ``env_config``.
        :raises ValueError: naming the choices, if the task or a setting is unknown.
        :raises ImportError: naming the extra, if the backend is not installed.
        """
