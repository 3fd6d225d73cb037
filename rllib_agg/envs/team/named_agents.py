"""Environments with named agents as one team: RLlib's MultiAgentEnv and PettingZoo's ParallelEnv.

Axes: n agents, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_choice
from rllib_agg.envs.team.agent_spaces import AgentSpaces
from rllib_agg.envs.team.interface import Floats, TeamSpec
from rllib_agg.envs.team.sequential import SingleStep, SingleView

TEAM_REWARDS: Mapping[str, Callable[..., Any]] = {"sum": np.sum, "mean": np.mean}
"""The team's reward from those of its agents ``[n]``."""


@dataclass(frozen=True)
class CustomSettings:
    """The adapter's part of a user's ``env_config``; the rest goes to the function that makes the environment.

    :param max_episode_steps: T; ``None``: the environment's own, as ``max_episode_steps`` or ``max_cycles``.
    :param state: From the environment and the observations by agent, the state, of any shape; ``None``: PettingZoo's
        ``state()`` where there is one, else all observations in a row.
    :param won: From the environment and the infos by agent, whether a finished episode was won.
    :param team_reward: The team's reward from those of its agents: ``sum`` or ``mean``.
    :param agent_types: The agents' types by name; ``None``: the name without a number at its end. Agents of one type may
        share what others do not.
    :raises ValueError: if ``state`` or ``won`` is no function, or ``team_reward`` is unknown.
    """

    max_episode_steps: int | None = None
    state: Callable[[Any, Mapping[Any, Any]], Any] | None = None
    won: Callable[[Any, Mapping[Any, Any]], bool] | None = None
    team_reward: str = "sum"
    agent_types: Mapping[Any, str] | None = None

    def __post_init__(self) -> None:
        for name in ("state", "won"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"{name} must be a function, got {value!r}")
        check_choice("team_reward", self.team_reward, TEAM_REWARDS)

    @classmethod
    def split(cls, settings: Mapping[str, Any]) -> tuple[CustomSettings, dict[str, Any]]:
        """Split a user's settings into the adapter's and the rest."""
        own = {item.name for item in fields(cls)} & settings.keys()
        rest = {name: value for name, value in settings.items() if name not in own}
        return cls(**{name: settings[name] for name in own}), rest


class NamedTeam:
    """One copy of an environment with named agents, some of which may be absent."""

    def __init__(self, env: Any, spaces: AgentSpaces, max_episode_steps: int, settings: CustomSettings) -> None:
        self.env, self._spaces = env, spaces
        observations, _ = env.reset(seed=0)
        self._state_of, self._won = settings.state or self.own_state(), settings.won
        self._team_reward = TEAM_REWARDS[settings.team_reward]
        types = settings.agent_types or {agent: re.sub(r"[_-]?\d+$", "", str(agent)) for agent in spaces.agents}
        spaces.check(types)
        self._present: Collection[Any] = ()
        self.spec = TeamSpec(
            num_agents=len(spaces.agents),
            num_actions=spaces.num_actions,
            observation_size=spaces.observation_size,
            state_size=len(self._state(observations)),
            max_episode_steps=max_episode_steps,
            agent_types=tuple(types.get(agent, str(agent)) for agent in spaces.agents),
            credits=frozenset({"env"}),
            has_wins=settings.won is not None,
        )

    def own_state(self) -> Callable[[Any, Mapping[Any, Any]], Any] | None:
        """The environment's state, in the form of ``CustomSettings.state``; ``None``: it has none."""
        return None

    def episode_end(
        self, observations: Mapping[Any, Any], terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]
    ) -> tuple[bool, bool]:
        """Whether the episode of the whole team has terminated, or else is truncated."""
        raise NotImplementedError

    def reset(self, seed: int) -> SingleView:
        """Begin an episode."""
        return self._view(*self.env.reset(seed=seed))

    def step(self, actions: Sequence[int]) -> SingleStep:
        """Send the present agents' actions. Agents with an observation act next, unless they have just ended."""
        chosen = self._spaces.actions(actions, self._present)
        observations, by_agent, terminations, truncations, infos = self.env.step(chosen)
        terminated, truncated = self.episode_end(observations, terminations, truncations)
        over = terminated or truncated
        if not over:
            ended = {agent for agent in observations if terminations.get(agent) or truncations.get(agent)}
            observations = {agent: each for agent, each in observations.items() if agent not in ended}
        self._spaces.check(by_agent)
        rewards = self._spaces.rewards(by_agent)
        won = self._won is not None and over and bool(self._won(self.env, infos))
        view = self._view(observations, infos)
        return SingleStep(view, float(self._team_reward(rewards)), rewards, terminated, truncated, won)

    def render(self) -> NDArray[np.uint8]:
        """Draw it ``[height, width, 3]``."""
        picture = self.env.render()
        if not isinstance(picture, np.ndarray):
            raise ValueError("the environment draws no pictures; make it with render_mode='rgb_array'")
        return picture[:, :, :3].astype(np.uint8)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _view(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> SingleView:
        self._spaces.check(observations)
        self._present = observations.keys()
        masks = self._spaces.masks(observations, infos)
        return SingleView(self._spaces.observations(observations), self._state(observations), masks)

    def _state(self, observations: Mapping[Any, Any]) -> Floats:
        if self._state_of is None:
            return self._spaces.observations(observations).reshape(-1)
        return np.asarray(self._state_of(self.env, observations), dtype=np.float32).reshape(-1)


class MultiAgentTeam(NamedTeam):
    """One copy of RLlib's ``MultiAgentEnv``, with agents that die, join or take turns."""

    def episode_end(
        self, observations: Mapping[Any, Any], terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]
    ) -> tuple[bool, bool]:
        """As the environment reports it, under the key ``__all__``."""
        everyone = bool(terminated.get("__all__"))
        return everyone, not everyone and bool(truncated.get("__all__"))


class ParallelTeam(NamedTeam):
    """One copy of a PettingZoo ``ParallelEnv``."""

    def own_state(self) -> Callable[[Any, Mapping[Any, Any]], Any] | None:
        """The environment's ``state()``, if it has one."""
        try:
            self.env.state()
        except (NotImplementedError, AttributeError):
            return None
        return lambda env, observations: env.state()

    def episode_end(
        self, observations: Mapping[Any, Any], terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]
    ) -> tuple[bool, bool]:
        """The episode ends when no agent is left, truncated if one of the last ones was."""
        over = not self.env.agents or all(terminated.get(agent) or truncated.get(agent) for agent in observations)
        cut = over and any(truncated.values())
        return over and not cut, cut
