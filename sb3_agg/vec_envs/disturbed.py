"""Agents that differ in a vectorised environment whose sub-environments step together. Axis A: agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from rl_agg.envs.disturbances import Disturbance, as_disturbances
from rl_agg.envs.disturbed_arrays import DisturbedArrays


class DisturbedVecEnv(VecEnvWrapper):
    """Disturb what some agents observe, are paid, or see of the ends of episodes.

    Returns under ``infos[a]["episode"]["r"]`` are the disturbed ones.

    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> venv = DisturbedVecEnv(make_vec_env("CartPole-v1", 8), [{"agents": [0, 1], "broken_sensors": True}])

    :param venv: Reports episodes as Monitor does, as :class:`~sb3_agg.EnvPoolVecEnv`. Its observations are arrays.
    :param disturbances: In their order, see :class:`~rl_agg.envs.disturbances.Disturbance`; not of the environment itself.
    :param seed: Of what they draw.
    :raises ValueError: if an agent index is out of range, or a disturbance does not fit the environment.
    """

    def __init__(
        self, venv: VecEnv, disturbances: Sequence[Disturbance | Mapping[str, Any]], *, seed: int | None = None
    ) -> None:
        super().__init__(venv)
        if isinstance(venv.observation_space, spaces.Dict | spaces.Tuple):
            raise ValueError(
                f"DisturbedVecEnv disturbs arrays, and observations are {venv.observation_space}; use make_unequal_vec_env()"
            )
        chosen = as_disturbances(disturbances)
        for disturbance in chosen:
            disturbance.check(venv.num_envs)
        self._parts = [DisturbedArrays(disturbance, venv.observation_space) for disturbance in chosen]
        self._endless = [agent for part in self._parts if part.endless for agent in part.agents]
        self._paid = sorted({int(agent) for part in self._parts if part.pays for agent in part.agents})
        self._returns = np.zeros(venv.num_envs)
        self._seed_parts(seed)

    def _seed_parts(self, seed: int | None) -> None:
        for number, part in enumerate(self._parts):
            part.seed(None if seed is None else [seed, number])

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """As the environment's; disturbances begin their streams again."""
        self._seed_parts(seed)
        return self.venv.seed(seed)

    def reset(self) -> NDArray[Any]:
        """Reset all, and return disturbed observations ``[A, ...]``."""
        self._returns[:] = 0
        observations = np.array(self.venv.reset())
        for part in self._parts:
            part.disturb_observations(observations)
        return observations

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step, and return what is disturbed of it."""
        found, paid, over, infos = self.venv.step_wait()
        observations, rewards, over = np.array(found), np.array(paid), np.array(over)
        for part in self._parts:
            part.disturb_rewards(rewards)
        self._returns += rewards
        over[self._endless] = False
        for agent in self._endless:
            infos[agent] = {}
        if over.any():
            self._end_episodes(over, infos, observations)
        for part in self._parts:
            part.disturb_observations(observations)
        return observations, rewards, over, infos

    def _end_episodes(self, over: NDArray[np.bool_], infos: list[dict[str, Any]], like: NDArray[Any]) -> None:
        last = np.zeros_like(like)
        done = np.flatnonzero(over)
        for agent in done:
            last[agent] = infos[agent]["terminal_observation"]
        for part in self._parts:
            part.disturb_observations(last, over)
        for agent in done:
            infos[agent]["terminal_observation"] = last[agent]
        for paid in set(self._paid) & set(done.tolist()):
            episode = infos[paid].get("episode")
            if episode is None:
                raise ValueError(
                    f"an episode of agent {paid} ended without a return, which its disturbance changes: wrap the environments "
                    "in Monitor, or the vectorised one in VecMonitor, and that in DisturbedVecEnv"
                )
            episode["r"] = round(float(self._returns[paid]), 6)
        self._returns[done] = 0
