"""Environments from a user's own function: an RLlib MultiAgentEnv or a PettingZoo ParallelEnv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rl_agg.population import time_limit
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
    elif _is_parallel(env):
        adapter, spaces = ParallelTeam, (env.observation_space, env.action_space)  # PettingZoo need not be installed
    else:
        raise ValueError(
            f"{name} must make an RLlib MultiAgentEnv or a PettingZoo ParallelEnv, got {type(env).__name__}" + _hint(env)
        )
    limit = _time_limit(env, name, settings.max_episode_steps)
    return adapter(env, AgentSpaces(env.possible_agents, *spaces), limit, settings)


def _is_parallel(env: Any) -> bool:
    parts = ("possible_agents", "observation_space", "action_space", "reset", "step")
    return all(hasattr(env, part) for part in parts) and not hasattr(env, "agent_iter")  # of an AECEnv


def _hint(env: Any) -> str:
    if all(hasattr(env, part) for part in ("agent_iter", "last")):
        return ", an AECEnv: convert it by pettingzoo.utils.conversions.aec_to_parallel(env)"
    return ", which has one agent: use another algorithm" if isinstance(env, gym.Env) else ""


def _time_limit(env: Any, name: str, chosen: int | None) -> int:
    if chosen is not None:
        check_count("max_episode_steps", chosen, least=1)
        return chosen
    if (limit := time_limit(env)) is not None:
        return limit
    raise ValueError(f"{name} has no time limit, so that an episode may never end; set max_episode_steps in its settings")
