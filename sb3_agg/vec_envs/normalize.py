"""Rewards in units of each agent's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize


class AgentVecNormalize(VecNormalize):
    """SB3's ``VecNormalize``, except that each agent's rewards are divided by the deviation of its own discounted return.

    Stock divides all by one, so that an agent whose rewards are ten times as large dominates a shared critic. Scaling the
    critic's targets by agent, as PopArt does by task, comes to the same, for targets are sums of rewards. Observations are
    normalised together, as in stock.

    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> AgentVecNormalize(make_vec_env("CartPole-v1", 3)).ret_rms.var.shape
    (3,)

    :param venv: The A agents' environments.
    :param kwargs: Arguments of ``VecNormalize``.
    """

    def __init__(self, venv: VecEnv, **kwargs: Any) -> None:
        super().__init__(venv, **kwargs)
        self.ret_rms = RunningMeanStd(shape=(self.num_envs,))

    def set_venv(self, venv: VecEnv) -> None:
        """Wrap environments after loading.

        :raises ValueError: if there are not as many as the statistics are of.
        """
        if len(self.ret_rms.var) != venv.num_envs:
            raise ValueError(f"these statistics are of {len(self.ret_rms.var)} environments, got {venv.num_envs}")
        super().set_venv(venv)

    def _update_reward(self, reward: NDArray[np.floating[Any]]) -> None:
        self.returns = self.returns * self.gamma + reward
        self.ret_rms.update(self.returns[None])
