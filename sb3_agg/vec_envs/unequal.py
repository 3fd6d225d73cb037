"""Vectorised environments that differ from agent to agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rl_agg.envs.disturbances import Disturbance, as_disturbances, make_unequal_env


def make_unequal_vec_env(
    env_id: str,
    n_envs: int,
    disturbances: Sequence[Disturbance | Mapping[str, Any]],
    *,
    seed: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    wrapper_class: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None = None,
    vec_env_cls: Callable[[list[Callable[[], gym.Env[Any, Any]]]], VecEnv] = DummyVecEnv,
) -> VecEnv:
    """SB3's ``make_vec_env`` for agents that differ.

    >>> env = make_unequal_vec_env("CartPole-v1", 3, [{"agents": [0], "broken_sensors": True}])
    >>> env.num_envs
    3

    :param env_id: Gymnasium's id.
    :param n_envs: A.
    :param disturbances: The differences, see :class:`~rl_agg.envs.disturbances.Disturbance`.
    :param seed: Agent a gets ``seed + a``.
    :param env_kwargs: Arguments of ``gymnasium.make`` for all agents.
    :param wrapper_class: Applied to each environment, outside of Monitor.
    :param vec_env_cls: Class of the vectorised environment.
    :raises ValueError: if an agent index is out of range, or a disturbance does not fit the environment.
    """
    chosen = as_disturbances(disturbances)
    for disturbance in chosen:
        disturbance.check(n_envs)
    envs = vec_env_cls([partial(_make, env_id, agent, chosen, env_kwargs, wrapper_class, seed) for agent in range(n_envs)])
    envs.seed(seed)
    return envs


def _make(
    env_id: str,
    agent: int,
    disturbances: Sequence[Disturbance],
    env_kwargs: Mapping[str, Any] | None,
    wrapper_class: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None,
    seed: int | None,
) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = Monitor(make_unequal_env(env_id, agent, disturbances, env_kwargs))
    if seed is not None:
        env.action_space.seed(seed + agent)
    return env if wrapper_class is None else wrapper_class(env)
