"""Environments that a user makes: an RLlib MultiAgentEnv or a PettingZoo ParallelEnv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rl_agg.validation import check_count
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.listed import ListedTeams, OneTeam
from rllib_agg.envs.team.multi_agent import MultiAgentTeam
from rllib_agg.envs.team.parallel import ParallelTeam


@dataclass(frozen=True)
class CustomSettings:
    """What the adapter takes of a user's ``env_config``; all else goes to the function that makes the environment.

    :param max_episode_steps: T; ``None``: what the environment says, as ``max_episode_steps`` or ``max_cycles``.
    :param state: From the environment and the observations by agent, the state, of any shape; ``None``: what PettingZoo's
        ``state()`` says, else all observations in a row.
    :param won: From the environment and the infos by agent, whether an episode that is over was won.
    :param team_reward: What the team gets of the agents' rewards: ``sum`` or ``mean``.
    :param agent_types: The agents' types by name; those of one type may share what others do not.
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

    @classmethod
    def taken_from(cls, settings: Mapping[str, Any]) -> tuple[CustomSettings, dict[str, Any]]:
        """Take what is ours out of a user's settings.

        :return: That, and the rest.
        """
        ours = {item.name for item in fields(cls)}
        rest = {name: value for name, value in settings.items() if name not in ours}
        return cls(**{name: value for name, value in settings.items() if name in ours}), rest


def make_custom(
    creator: Callable[[Any], Any], name: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]
) -> ListedTeams:
    """Make E copies.

    :param creator: Makes an environment from an ``EnvContext``.
    :param name: For messages.
    """
    check_credit(name, credit, {"env"})
    chosen, rest = CustomSettings.taken_from(settings)

    def make(index: int) -> OneTeam:
        return as_team(creator(EnvContext(rest, worker_index=0, vector_index=index)), name, chosen)

    return ListedTeams(make, num_envs, credit=credit)


def as_team(env: Any, name: str, settings: CustomSettings) -> OneTeam:
    """Adapt one environment.

    :param env: A ``MultiAgentEnv`` or a ``ParallelEnv``.
    :param name: For messages.
    :raises ValueError: if it is neither, or has no time limit.
    """
    adapter: Callable[..., OneTeam]
    if isinstance(env, MultiAgentEnv):
        adapter = MultiAgentTeam
    elif all(hasattr(env, part) for part in ("possible_agents", "observation_space", "action_space", "reset", "step")):
        adapter = ParallelTeam  # by what it does: PettingZoo need not be installed
    else:
        raise ValueError(f"{name} must make an RLlib MultiAgentEnv or a PettingZoo ParallelEnv, got {type(env).__name__}")
    return adapter(
        env,
        _time_limit(env, name, settings.max_episode_steps),
        state=settings.state,
        won=settings.won,
        team_reward=settings.team_reward,
        agent_types=settings.agent_types,
    )


def _time_limit(env: Any, name: str, asked: int | None) -> int:
    if asked is not None:
        check_count("max_episode_steps", asked, least=1)
        return asked
    inner = getattr(env, "unwrapped", env)
    told = [getattr(owner, attribute, None) for owner in (env, inner) for attribute in ("max_episode_steps", "max_cycles")]
    limits = [limit for limit in told if isinstance(limit, int) and limit >= 1]
    if not limits:
        raise ValueError(f"{name} has no time limit, so that an episode may never end; set max_episode_steps in its settings")
    return limits[0]
