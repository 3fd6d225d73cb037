"""Rewards in units of each agent's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

Rewards = NDArray[np.floating[Any]]


class AgentVecNormalize(VecNormalize):
    """SB3's ``VecNormalize``, except that each agent's rewards are divided by the deviation of its own discounted return.

    Stock divides all by one, so that an agent whose rewards are ten times as large dominates a shared critic. Scaling the
    critic's targets by agent, as PopArt does by task, comes to the same, for targets are sums of rewards. Observations are
    normalised together, as in stock.

    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> AgentVecNormalize(make_vec_env("CartPole-v1", 3)).agent_rms.var.shape
    (3,)

    :param venv: The A agents' environments.
    :param kwargs: Arguments of ``VecNormalize``.
    """

    def __init__(self, venv: VecEnv, **kwargs: Any) -> None:
        super().__init__(venv, **kwargs)
        self.agent_rms = RunningMeanStd(shape=(self.num_envs,))  # ret_rms stays stock's, which wrappers for evaluation copy

    @staticmethod
    def load(load_path: str, venv: VecEnv) -> AgentVecNormalize:
        """As SB3's.

        :raises ValueError: if the file is of another wrapper, which has no statistics of each agent.
        """
        loaded = VecNormalize.load(load_path, venv)
        if not isinstance(loaded, AgentVecNormalize):
            raise ValueError(
                f"{load_path} holds a {type(loaded).__name__}, which has no reward scale of each agent; open it with "
                "VecNormalize.load(), or wrap the environments with AgentVecNormalize(venv) and set its obs_rms to the file's"
            )
        return loaded

    def normalize_reward(self, reward: Rewards) -> Rewards:
        """Divide the rewards of all agents ``[..., A]``, where ``norm_reward`` is set.

        :raises ValueError: if there are not A of them.
        """
        if self.norm_reward:
            reward = np.clip(reward / self._scale(reward), -self.clip_reward, self.clip_reward)
        return reward.astype(np.float32)

    def unnormalize_reward(self, reward: Rewards) -> Rewards:
        """Undo :meth:`normalize_reward`, but for what it clipped."""
        return reward * self._scale(reward) if self.norm_reward else reward

    def _scale(self, reward: Rewards) -> Rewards:
        if reward.shape[-1:] != self.agent_rms.var.shape:
            raise ValueError(
                f"each of {len(self.agent_rms.var)} agents has a reward scale of its own, got rewards of shape "
                f"{reward.shape}; set training and norm_reward to False to evaluate, and use VecNormalize with a replay buffer"
            )
        scale: Rewards = np.sqrt(self.agent_rms.var + self.epsilon)
        return scale

    def _update_reward(self, reward: Rewards) -> None:
        self._scale(reward)
        super()._update_reward(reward)
        self.agent_rms.update(self.returns[None])
