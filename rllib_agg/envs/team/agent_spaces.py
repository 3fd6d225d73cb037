"""Dictionaries by agent as arrays of one shape, and back: shorter observations and action lists are padded.

Axes: n agents, d the size of an observation, a actions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import flatdim, flatten

from rl_agg.validation import unknown_choice
from rllib_agg.envs.team.interface import Bools, Floats

MASK = "action_mask"
"""Key of the legal actions, in an observation or an info."""


class AgentSpaces:
    """The spaces of a team whose agents have names.

    :param agents: All that may ever be present, in the order of the team.
    :param observation_space: By agent, any space; flattened. Of a ``Dict``, the entry ``action_mask`` is left out.
    :param action_space: By agent, ``Discrete``.
    :raises ValueError: if there is no agent, or naming one whose actions are not ``Discrete``.
    """

    def __init__(
        self,
        agents: Sequence[Any],
        observation_space: Callable[[Any], gym.Space[Any]],
        action_space: Callable[[Any], gym.Space[Any]],
    ) -> None:
        if not agents:
            raise ValueError("a team needs at least one agent, and the environment has no possible_agents")
        self.agents = tuple(agents)
        self._rows = {agent: row for row, agent in enumerate(agents)}
        self._observed = {agent: _without_mask(observation_space(agent)) for agent in agents}
        self._actions: dict[Any, gym.spaces.Discrete[Any]] = {}
        for agent in agents:
            space = action_space(agent)
            if not isinstance(space, gym.spaces.Discrete):
                raise ValueError(f"a team's actions must be Discrete, and those of {agent!r} are {space}")
            self._actions[agent] = space
        self.observation_size = max(flatdim(space) for space in self._observed.values())
        self.num_actions = max(int(space.n) for space in self._actions.values())

    def observations(self, by_agent: Mapping[Any, Any]) -> Floats:
        """Observations ``[n, d]``, zeros where an agent is absent."""
        rows = np.zeros((len(self.agents), self.observation_size), dtype=np.float32)
        for agent, observation in by_agent.items():
            flat = np.asarray(flatten(self._observed[agent], _without_mask(observation)), dtype=np.float32).reshape(-1)
            rows[self._rows[agent], : len(flat)] = flat
        return rows

    def masks(self, by_agent: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Bools:
        """Legal actions ``[n, a]``. An absent agent has only the first action, which is not sent.

        :param by_agent: Observations; a mask in them takes precedence over one in the infos.
        :raises ValueError: naming the agent, if a mask does not have as many numbers as it has actions.
        """
        masks = np.zeros((len(self.agents), self.num_actions), dtype=np.bool_)
        for row, agent in zip(masks, self.agents, strict=True):
            if agent not in by_agent:
                row[0] = True
                continue
            sources = (by_agent[agent], infos.get(agent))
            found = [source[MASK] for source in sources if isinstance(source, Mapping) and source.get(MASK) is not None]
            num_actions = int(self._actions[agent].n)
            mask = np.asarray(found[0]).astype(np.bool_) if found else np.ones(num_actions, dtype=np.bool_)
            if mask.shape != (num_actions,):
                raise ValueError(f"the action_mask of {agent!r} must be [{num_actions}], got shape {mask.shape}")
            row[:num_actions] = mask
        return masks

    def actions(self, actions: Sequence[int], present: Collection[Any]) -> dict[Any, int]:
        """Actions by agent, of the present ones, in the numbering of their own spaces."""
        return {
            agent: int(self._actions[agent].start) + action
            for agent, action in zip(self.agents, actions, strict=True)
            if agent in present
        }

    def rewards(self, by_agent: Mapping[Any, float]) -> Floats:
        """Rewards ``[n]``, 0 where an agent has none."""
        return np.array([by_agent.get(agent, 0.0) for agent in self.agents], dtype=np.float32)

    def check(self, agents: Collection[Any]) -> None:
        """Raise ``ValueError``, naming it and the choices, if an agent is not one of the team's."""
        for agent in agents:
            if agent not in self._rows:
                raise unknown_choice("agent", str(agent), [str(known) for known in self.agents])


def _without_mask(item: Any) -> Any:
    """A ``Dict`` space, or an observation of one, without its mask; an only remaining entry is unwrapped."""
    entries = item.spaces if isinstance(item, gym.spaces.Dict) else item
    if not isinstance(entries, Mapping) or MASK not in entries:
        return item
    rest = {key: value for key, value in entries.items() if key != MASK}
    if len(rest) == 1:
        return next(iter(rest.values()))
    return gym.spaces.Dict(rest) if isinstance(item, gym.spaces.Dict) else rest
