"""Environments that differ from agent to agent, under a name for RLlib's ``environment()``.

Ray 2.60 passes the number of the env runner (``worker_index``) to an environment's creator, but not that of the
sub-environment: ``vector_index`` is always 0. In one process sub-environments are created in order with the same
``EnvContext``, which counts them here; in processes of their own, Gymnasium puts their numbers into the processes' names.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from ray.rllib.env.env_context import EnvContext
from ray.tune import register_env

from rl_agg.envs.disturbances import Disturbance, as_disturbances, make_unequal_env
from rl_agg.validation import check_choice, check_count
from rllib_agg.aggregation.agents import AGENT_CHOICES, agent_number

COUNT = "unequal_envs_made"
"""Attribute of an ``EnvContext``: how many sub-environments were created with it."""


@dataclass(frozen=True)
class UnequalEnvs:
    """Creator of sub-environments with the disturbances of their agents.

    :param env_id: Gymnasium's id.
    :param disturbances: The differences.
    :param agents: What an agent is: ``"sub_env"`` or ``"env_runner"``.
    :param num_envs_per_env_runner: As in the algorithm's config.
    :param env_kwargs: Arguments of ``gymnasium.make`` for all agents.
    """

    env_id: str
    disturbances: tuple[Disturbance, ...]
    agents: str = "sub_env"
    num_envs_per_env_runner: int = 1
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, context: Mapping[str, Any]) -> gym.Env[Any, Any]:
        """Make the next sub-environment of an env runner.

        :param context: RLlib's EnvContext; its entries are further arguments of ``gymnasium.make``.
        :raises ValueError: if RLlib asks for vectorised environments, or for more than ``num_envs_per_env_runner``.
        """
        if not isinstance(context, EnvContext):
            raise ValueError(
                "unequal environments are created one by one; leave gym_env_vectorize_mode at 'sync', or set it to 'async'"
            )
        index = self._index(context)
        if index >= self.num_envs_per_env_runner:
            raise ValueError(
                f"num_envs_per_env_runner is larger than the {self.num_envs_per_env_runner} that these environments were "
                "registered with; give both the same number"
            )
        agent = agent_number(self.agents, context.worker_index, self.num_envs_per_env_runner, index)
        return make_unequal_env(self.env_id, agent, self.disturbances, {**self.env_kwargs, **context})

    @staticmethod
    def _index(context: EnvContext) -> int:
        numbered = re.fullmatch(r"Worker<\w+>-(\d+)", multiprocessing.current_process().name)
        if numbered is not None:  # Gymnasium's AsyncVectorEnv creates each in its own process
            return int(numbered[1])
        index: int = vars(context).get(COUNT, 0)
        setattr(context, COUNT, index + 1)
        return index

    def check(self, config: Any) -> None:
        """Raise if an algorithm has other agents.

        :param config: Its config, of this package.
        :raises ValueError: naming the setting that differs.
        """
        for name in ("agents", "num_envs_per_env_runner"):
            if getattr(self, name) != getattr(config, name):
                raise ValueError(
                    f"{config.env!r} is registered with {name}={getattr(self, name)!r}, and the algorithm has "
                    f"{name}={getattr(config, name)!r}"
                )
        for disturbance in self.disturbances:
            disturbance.check(config.num_agents)


def register_unequal_env(
    name: str,
    env_id: str,
    disturbances: Sequence[Disturbance | Mapping[str, Any]],
    *,
    agents: str = "sub_env",
    num_envs_per_env_runner: int = 1,
    env_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Register environments that differ from agent to agent.

    >>> register_unequal_env("broken", "CartPole-v1", [{"agents": [0], "broken_sensors": True}], num_envs_per_env_runner=4)

    After that, ``config.environment("broken").env_runners(num_envs_per_env_runner=4)`` trains on them. Evaluation would too:
    set ``evaluation_config={"env": "CartPole-v1"}`` to evaluate without disturbances.

    :param name: For ``environment()``.
    :param env_id: Gymnasium's id.
    :param disturbances: The differences, see :class:`~rl_agg.envs.disturbances.Disturbance`.
    :param agents: As in the algorithm's config: ``"sub_env"`` or ``"env_runner"``, which A3C's are.
    :param num_envs_per_env_runner: As in the algorithm's config.
    :param env_kwargs: Arguments of ``gymnasium.make`` for all agents; ``env_config`` adds to them.
    :raises ValueError: if a setting is unknown or out of range. Agent numbers are checked when an algorithm of this package is
        built.
    """
    check_choice("agents", agents, AGENT_CHOICES)
    check_count("num_envs_per_env_runner", num_envs_per_env_runner, least=1)
    chosen = as_disturbances(disturbances)
    register_env(name, UnequalEnvs(env_id, chosen, agents, num_envs_per_env_runner, dict(env_kwargs or {})))
