"""Environments that speak of agents by name, as one team: unequal agents are padded, absent ones do nothing.

Axes: n agents, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import flatdim, flatten
from numpy.typing import NDArray

from rl_agg.validation import unknown_choice
from rllib_agg.envs.team.listed import Outcome, Seen
from rllib_agg.envs.team.team import Bools, Floats, TeamSpec

TEAM_REWARDS: Mapping[str, Callable[[Floats], float]] = {
    "sum": lambda rewards: float(rewards.sum()),
    "mean": lambda rewards: float(rewards.mean()),
}
"""What the team gets of its agents' rewards ``[n]``. With ``sum`` they add up to it."""

MASK = "action_mask"


@dataclass(frozen=True)
class ByAgent:
    """One answer of an environment: a value for each agent that is there.

    :param observations: Of those that are to act next.
    :param rewards: Also of those that have just left.
    :param infos: May hold an ``action_mask``.
    """

    observations: Mapping[Any, Any]
    rewards: Mapping[Any, float]
    infos: Mapping[Any, Any]


class AgentSpaces:
    """Turns what agents see and do into arrays of one shape, and back.

    :param observation_spaces: By agent, in the order of the team. What is no vector is flattened; a ``Dict`` with an
        ``action_mask`` is the rest of it.
    :param action_spaces: By agent, ``Discrete``.
    :raises ValueError: naming the agent whose actions are not.
    """

    def __init__(self, observation_spaces: Mapping[Any, gym.Space[Any]], action_spaces: Mapping[Any, gym.Space[Any]]) -> None:
        self.agents: tuple[Any, ...] = tuple(observation_spaces)
        if not self.agents:
            raise ValueError("a team needs at least one agent, and the environment has no possible_agents")
        self._numbers = {agent: number for number, agent in enumerate(self.agents)}
        self._seen = {agent: _without_mask(space) for agent, space in observation_spaces.items()}
        self._starts, self._counts = {}, {}
        for agent, space in action_spaces.items():
            if not isinstance(space, gym.spaces.Discrete):
                raise ValueError(f"a team's actions must be Discrete, and those of {agent!r} are {space}")
            self._starts[agent], self._counts[agent] = int(space.start), int(space.n)
        self.observation_size = max(flatdim(space) for space in self._seen.values())
        self.num_actions = max(self._counts.values())

    def observations(self, seen: Mapping[Any, Any]) -> Floats:
        """``[n, d]``, zeros where an agent is absent."""
        rows = np.zeros((len(self.agents), self.observation_size), dtype=np.float32)
        for agent, observation in seen.items():
            space = self._seen[agent]
            bare = _split(observation)[0]
            if isinstance(space, gym.spaces.Dict) and isinstance(bare, Mapping):
                bare = {key: bare[key] for key in space.spaces}
            flat = np.asarray(flatten(space, bare), dtype=np.float32).reshape(-1)
            rows[self._numbers[agent], : len(flat)] = flat
        return rows

    def masks(self, seen: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Bools:
        """``[n, a]``; an absent agent has the first action, which is sent to nobody."""
        masks = np.zeros((len(self.agents), self.num_actions), dtype=np.bool_)
        for agent in self.agents:
            row = masks[self._numbers[agent]]
            if agent not in seen:
                row[0] = True
                continue
            mask = _split(seen[agent])[1]
            if mask is None:
                mask = (infos.get(agent) or {}).get(MASK)
            row[: self._counts[agent]] = True if mask is None else np.asarray(mask).astype(np.bool_)
        return masks

    def actions(self, actions: Sequence[int], present: Collection[Any]) -> dict[Any, int]:
        """By agent, of those that are there, as their spaces count them."""
        return {agent: self._starts[agent] + actions[self._numbers[agent]] for agent in self.agents if agent in present}

    def rewards(self, rewards: Mapping[Any, float]) -> Floats:
        """``[n]``."""
        row = np.zeros(len(self.agents), dtype=np.float32)
        for agent, reward in rewards.items():
            row[self._numbers[agent]] = reward
        return row

    def check(self, agents: Collection[Any]) -> None:
        """Refuse agents that were not announced.

        :raises ValueError: naming one and those that were.
        """
        for agent in agents:
            if agent not in self._numbers:
                raise unknown_choice("agent", str(agent), [str(known) for known in self.agents])


class NamedTeam:
    """What the adapters of such environments share.

    :param env: The environment, for the user's functions.
    :param spaces: Its agents'.
    :param max_episode_steps: T.
    :param state: From the environment and the last observations by agent, the state; ``None``: the padded observations in a
        row.
    :param first: A first answer, for the size of the state.
    :param won: From the environment and the last infos by agent, whether an episode that is over was won.
    :param team_reward: A name of :data:`TEAM_REWARDS`.
    :param agent_types: By agent; ``None``: its name up to a number at its end.
    """

    def __init__(
        self,
        env: Any,
        spaces: AgentSpaces,
        max_episode_steps: int,
        first: ByAgent,
        *,
        state: Callable[[Any, Mapping[Any, Any]], Any] | None,
        won: Callable[[Any, Mapping[Any, Any]], bool] | None,
        team_reward: str,
        agent_types: Mapping[Any, str] | None,
    ) -> None:
        if team_reward not in TEAM_REWARDS:
            raise unknown_choice("team_reward", team_reward, TEAM_REWARDS)
        self.env, self.spaces = env, spaces
        self._state, self._won, self._team_reward = state, won, TEAM_REWARDS[team_reward]
        types = agent_types or {agent: re.sub(r"[_-]?\d+$", "", str(agent)) for agent in spaces.agents}
        spaces.check(types)
        self._present: Collection[Any] = ()
        self.spec = TeamSpec(
            num_agents=len(spaces.agents),
            num_actions=spaces.num_actions,
            observation_size=spaces.observation_size,
            state_size=len(self._seen_state(first.observations)),
            max_episode_steps=max_episode_steps,
            agent_types=tuple(types.get(agent, str(agent)) for agent in spaces.agents),
            credits=frozenset({"env"}),
            has_wins=won is not None,
        )

    def look(self, answer: ByAgent) -> Seen:
        """Arrange what is seen, and remember who is to act."""
        self.spaces.check(answer.observations)
        self._present = answer.observations.keys()
        return Seen(
            self.spaces.observations(answer.observations),
            self._seen_state(answer.observations),
            self.spaces.masks(answer.observations, answer.infos),
        )

    def outcome(self, answer: ByAgent, *, terminated: bool, truncated: bool) -> Outcome:
        """Arrange what came of a step."""
        self.spaces.check(answer.rewards)
        rewards = self.spaces.rewards(answer.rewards)
        won = self._won is not None and (terminated or truncated) and bool(self._won(self.env, answer.infos))
        reward = self._team_reward(rewards)
        return Outcome(self.look(answer), reward, rewards, terminated, truncated and not terminated, won)

    def chosen(self, actions: Sequence[int]) -> dict[Any, int]:
        """Actions by agent, of those that are to act."""
        return self.spaces.actions(actions, self._present)

    def render(self) -> NDArray[np.uint8]:
        """Draw it ``[height, width, 3]``."""
        picture = self.env.render()
        if not isinstance(picture, np.ndarray):
            raise ValueError("the environment draws no pictures; make it with render_mode='rgb_array'")
        return picture[:, :, :3].astype(np.uint8)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _seen_state(self, observations: Mapping[Any, Any]) -> Floats:
        if self._state is None:
            return self.spaces.observations(observations).reshape(-1)
        return np.asarray(self._state(self.env, observations), dtype=np.float32).reshape(-1)


def _split(observation: Any) -> tuple[Any, Any]:
    """An observation without its mask, and the mask; ``None`` if it has none."""
    if not isinstance(observation, Mapping) or MASK not in observation:
        return observation, None
    rest = {key: value for key, value in observation.items() if key != MASK}
    return (next(iter(rest.values())) if len(rest) == 1 else rest), observation[MASK]


def _without_mask(space: gym.Space[Any]) -> gym.Space[Any]:
    if not isinstance(space, gym.spaces.Dict) or MASK not in space.spaces:
        return space
    rest = {key: value for key, value in space.spaces.items() if key != MASK}
    return next(iter(rest.values())) if len(rest) == 1 else gym.spaces.Dict(rest)
