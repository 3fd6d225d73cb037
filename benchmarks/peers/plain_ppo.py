"""PPO as one plain loop of torch, in the manner of CleanRL, with the update compiled where there is a compiler."""

from __future__ import annotations

import itertools
import shutil
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.distributions import Categorical, Normal


def _network(sizes: list[int], last: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, last if after == sizes[-1] else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class PlainPPO:
    """SB3's defaults; only ``learn()`` is for others.

    :param env: Vectorised, of A sub-environments.
    :param n_steps: T.
    :param batch_size: B.
    :param compiled: Whether the gradient is compiled.
    """

    def __init__(self, _: str, env: VecEnv, *, n_steps: int, batch_size: int, seed: int, compiled: bool = False) -> None:
        torch.manual_seed(seed)
        self._env, self._num_steps, self._batch_size = env, n_steps, batch_size
        space = env.action_space
        self._discrete = isinstance(space, spaces.Discrete)
        num_inputs = int(np.prod(env.observation_space.shape or ()))
        num_outputs = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))
        self._actor, self._critic = _network([num_inputs, 64, 64, num_outputs], 0.01), _network([num_inputs, 64, 64, 1], 1.0)
        self._log_std = nn.Parameter(torch.zeros(num_outputs))
        self._parameters = [*self._actor.parameters(), *self._critic.parameters(), self._log_std]
        self._optimizer = torch.optim.Adam(self._parameters, lr=3e-4, eps=1e-5, fused=True)
        self._loss = torch.compile(self._loss_of) if compiled else self._loss_of
        self._observations = torch.as_tensor(env.reset(), dtype=torch.float32)

    def _distribution(self, outputs: Tensor) -> Any:
        if self._discrete:
            return Categorical(logits=outputs, validate_args=False)
        return Normal(outputs, self._log_std.exp(), validate_args=False)

    def _log_prob(self, distribution: Any, actions: Tensor) -> Tensor:
        log_prob: Tensor = distribution.log_prob(actions)
        return log_prob if self._discrete else log_prob.sum(-1)

    def _loss_of(self, observations: Tensor, actions: Tensor, log_prob: Tensor, advantages: Tensor, returns: Tensor) -> Tensor:
        ratio = (self._log_prob(self._distribution(self._actor(observations)), actions) - log_prob).exp()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy = -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
        return policy + 0.5 * (self._critic(observations).flatten() - returns).square().mean()

    def learn(self, total_timesteps: int, reset_num_timesteps: bool = True) -> PlainPPO:
        """Collect and update until that many steps are made."""
        for _ in range(total_timesteps // (self._num_steps * self._env.num_envs)):
            columns = self._collect()
            for _ in range(10):
                for rows in torch.randperm(len(columns[0])).split(self._batch_size):
                    self._optimizer.zero_grad()
                    self._loss(*[column[rows] for column in columns]).backward()
                    nn.utils.clip_grad_norm_(self._parameters, 0.5)
                    self._optimizer.step()
        return self

    @torch.no_grad()
    def _collect(self) -> list[Tensor]:
        steps: list[list[Tensor]] = []
        for _ in range(self._num_steps):
            distribution = self._distribution(self._actor(self._observations))
            actions = distribution.sample()
            values = self._critic(self._observations).flatten()
            sent = actions.numpy()
            if isinstance(self._env.action_space, spaces.Box):
                sent = sent.clip(self._env.action_space.low, self._env.action_space.high)
            observations, rewards, dones, _ = self._env.step(sent)
            ends = [torch.as_tensor(item, dtype=torch.float32) for item in (rewards, dones)]
            steps.append([self._observations, actions, self._log_prob(distribution, actions), values, *ends])
            self._observations = torch.as_tensor(observations, dtype=torch.float32)
        observed, actions, log_prob, values, rewards, dones = (torch.stack(column) for column in zip(*steps, strict=True))
        following = torch.cat([values[1:], self._critic(self._observations).flatten()[None]])
        errors = rewards + 0.99 * following * (1 - dones) - values
        advantages, last = torch.empty_like(errors), torch.zeros_like(errors[0])
        for step in reversed(range(self._num_steps)):
            last = advantages[step] = errors[step] + 0.99 * 0.95 * (1 - dones[step]) * last
        return [item.flatten(0, 1) for item in (observed, actions, log_prob, advantages, advantages + values)]


HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
