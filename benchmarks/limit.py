"""What no PPO can do without: the environments' steps and the matrix products of its networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from torch import Tensor, nn


class Limit(PPO):
    """PPO with everything left out but stepping and products: no loss, no advantages, no optimiser, no logs."""

    def learn(self, total_timesteps: int, **settings: Any) -> Limit:  # type: ignore[override]
        """Step with one random action, repeated, and take the products of as many forward and backward passes as PPO."""
        env = self.get_env()
        assert env is not None
        env.reset()
        actions = np.stack([env.action_space.sample()] * env.num_envs)
        networks = [self._weights(network) for network in self._networks()]
        for _ in range(total_timesteps // (self.n_steps * env.num_envs)):
            for _ in range(self.n_steps):
                env.step(actions)
                for weights in networks:
                    forwards(weights, env.num_envs)
            self.train()
        return self

    def train(self) -> None:
        """The products of all epochs."""
        networks = [self._weights(network) for network in self._networks()]
        samples = self.n_steps * self.n_envs
        for _ in range(self.n_epochs * -(-samples // self.batch_size)):
            for weights in networks:
                backwards(weights, forwards(weights, min(self.batch_size, samples)))

    def _networks(self) -> list[list[nn.Module]]:
        extractor = self.policy.mlp_extractor
        return [[*extractor.policy_net, self.policy.action_net], [*extractor.value_net, self.policy.value_net]]

    @staticmethod
    def _weights(network: list[nn.Module]) -> list[Tensor]:
        return [layer.weight.detach() for layer in network if isinstance(layer, nn.Linear)]


def forwards(weights: list[Tensor], samples: int) -> list[Tensor]:
    """The layers' inputs ``[samples, d]``, and the output."""
    found = [torch.ones(samples, weights[0].shape[1])]
    for weight in weights:
        found.append(found[-1] @ weight.T)
    return found


def backwards(weights: list[Tensor], found: list[Tensor]) -> None:
    """The products of a backward pass: weights' gradients, and those of all inputs but the first."""
    gradient = found[-1]
    for number in reversed(range(len(weights))):
        gradient.T @ found[number]
        if number:
            gradient = gradient @ weights[number]
