"""Team environments by name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import register_env

from rl_agg.validation import check_choice, check_count, unknown_choice
from rllib_agg.aggregation._compat import registered_env
from rllib_agg.envs.team.credits import CREDITS
from rllib_agg.envs.team.custom import make_custom
from rllib_agg.envs.team.interface import TeamEnv, TeamEnvMaker

BACKENDS: dict[str, str | TeamEnvMaker] = {
    "lbf": "rllib_agg.envs.lbf:make_lbf",
    "matrix": "rllib_agg.envs.matrix:make_matrix_game",
    "mpe": "rllib_agg.envs.mpe:make_mpe",
    "smac": "rllib_agg.envs.starcraft.smac:make_smac",
    "smaclite": "rllib_agg.envs.starcraft.smaclite:make_smaclite",
    "smacv2": "rllib_agg.envs.starcraft.smacv2:make_smacv2",
    "smax": "rllib_agg.envs.smax.backend:make_smax",
    "vmas": "rllib_agg.envs.vmas:make_vmas",
}
"""Makers by backend, as functions or as ``MODULE:FUNCTION``, imported when needed. :func:`register_team_env` adds one."""

RAY_PREFIX = "backend of team environments: "
"""Before the name of a user's backend in Ray's registry."""


def make_team_env(
    env: str | Callable[[Any], Any], num_envs: int, *, credit: str = "team", settings: Mapping[str, Any] | None = None
) -> TeamEnv:
    """Make E copies of a team's environment.

    :param env: ``BACKEND/TASK``, as ``"smax/3m"``; a name registered with Ray Tune; or a function of an ``EnvContext``. The
        last two make an RLlib ``MultiAgentEnv`` or a PettingZoo ``ParallelEnv``.
    :param num_envs: E.
    :param credit: Meaning of ``agent_rewards``: ``contribution``, ``env`` or ``team``.
    :param settings: The backend's; for a function those of :class:`~rllib_agg.envs.team.named_agents.CustomSettings`, and
        any others, which are passed on to it.
    :raises ValueError: naming the choices, if the environment, the credit or a setting is unknown.
    :raises ImportError: naming the remedy, if the backend is not installed.
    """
    check_count("num_envs", num_envs, least=1)
    check_choice("credit", credit, CREDITS)
    settings = dict(settings or {})
    creator = env if callable(env) else registered_env(env)
    if creator is not None:
        name = env if isinstance(env, str) else getattr(env, "__name__", repr(env))
        return make_custom(creator, name, num_envs, credit=credit, settings=settings)
    if not isinstance(env, str):
        raise ValueError(f"an environment must be a name or a function that makes it, got {env!r}")
    backend, slash, task = env.partition("/")
    if not slash:
        raise ValueError(
            f"unknown environment {env!r}: it is not registered with Ray Tune; a team's is called BACKEND/TASK, with BACKEND "
            f"one of {', '.join(sorted(BACKENDS))}"
        )
    return _maker(backend)(task, num_envs, credit=credit, settings=settings)


def register_team_env(backend: str, maker: TeamEnvMaker) -> None:
    """Register a user's backend, in this process and, by Ray, in those of env runners.

    :param backend: The part of the name before the slash.
    :param maker: Makes its environments.
    :raises ValueError: if the name is empty or has a slash.
    """
    if not backend or "/" in backend:
        raise ValueError(f"a backend's name must not be empty nor have a slash, got {backend!r}")
    BACKENDS[backend] = maker
    register_env(RAY_PREFIX + backend, maker)


def _maker(backend: str) -> TeamEnvMaker:
    maker = BACKENDS.get(backend)
    if not callable(maker):  # a user's may have been registered by another process
        maker = registered_env(RAY_PREFIX + backend) or maker
    if maker is None:
        raise unknown_choice("backend", backend, BACKENDS)
    if isinstance(maker, str):
        maker = pkgutil.resolve_name(maker)
    return maker
