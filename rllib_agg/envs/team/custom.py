"""Environments from a user's own function: an RLlib MultiAgentEnv or a PettingZoo ParallelEnv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rl_agg.validation import check_count
from rllib_agg.envs.team.agent_spaces import AgentSpaces
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.named_agents import CustomSettings, MultiAgentTeam, NamedTeam, ParallelTeam
from rllib_agg.envs.team.sequential import SequentialTeams


def make_custom(
    creator: Callable[[Any], Any], name: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]
) -> SequentialTeams:
    """Make E copies of what a user's function makes from an ``EnvContext``; the name is for messages."""
    check_credit(name, credit, {"env"})
    own, rest = CustomSettings.split(settings)

    def make(index: int) -> NamedTeam:
        return as_team(creator(EnvContext(rest, worker_index=0, vector_index=index)), name, own)

    return SequentialTeams(make, num_envs, credit=credit)


def as_team(env: Any, name: str, settings: CustomSettings) -> NamedTeam:
    """Adapt one environment; ``ValueError`` if it is neither of the two kinds, or has no time limit."""
    adapter: type[NamedTeam]
    if isinstance(env, MultiAgentEnv):
        adapter, spaces = MultiAgentTeam, (env.get_observation_space, env.get_action_space)
    elif all(hasattr(env, part) for part in ("possible_agents", "observation_space", "action_space", "reset", "step")):
        adapter, spaces = ParallelTeam, (env.observation_space, env.action_space)  # PettingZoo need not be installed
    else:
        raise ValueError(f"{name} must make an RLlib MultiAgentEnv or a PettingZoo ParallelEnv, got {type(env).__name__}")
    limit = _time_limit(env, name, settings.max_episode_steps)
    return adapter(env, AgentSpaces(env.possible_agents, *spaces), limit, settings)


def _time_limit(env: Any, name: str, chosen: int | None) -> int:
    if chosen is not None:
        check_count("max_episode_steps", chosen, least=1)
        return chosen
    for owner in (env, getattr(env, "unwrapped", env)):
        for attribute in ("max_episode_steps", "max_cycles"):
            limit = getattr(owner, attribute, None)
            if isinstance(limit, int) and limit >= 1:
                return limit
    raise ValueError(f"{name} has no time limit, so that an episode may never end; set max_episode_steps in its settings")
