"""Off-policy algorithms, worlds that show whose a sample is, and each agent's gradients by SB3's own ``train()``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from sb3_agg import AggDDPG, AggDQN, AggQRDQN, AggSAC, AggTD3, AggTQC

PAIRS: dict[str, tuple[Any, Any]] = {
    "dqn": (DQN, AggDQN),
    "qrdqn": (QRDQN, AggQRDQN),
    "sac": (SAC, AggSAC),
    "td3": (TD3, AggTD3),
    "ddpg": (DDPG, AggDDPG),
    "tqc": (TQC, AggTQC),
}
"""Stock's class and ours."""
DISCRETE = ("dqn", "qrdqn")
OWN: dict[str, dict[str, Any]] = {
    "dqn": {"max_grad_norm": 0.5, "train_freq": 1},
    "qrdqn": {"max_grad_norm": 0.5, "train_freq": 1, "policy_kwargs": {"net_arch": [16, 16], "n_quantiles": 8}},
    "td3": {"policy_delay": 1, "target_policy_noise": 0.0},
    "tqc": {"policy_kwargs": {"net_arch": [16, 16], "n_quantiles": 5}, "top_quantiles_to_drop_per_net": 1},
}
AGENTS = 5


class Marked(gym.Env[np.ndarray, Any]):
    """Ten steps of noise, observed after the agent's number and the step's; rewards differ between agents."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self, agent: int, discrete: bool) -> None:
        self.agent, self.clock = agent, 0
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.noise = np.random.default_rng(agent)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**kwargs)
        self.episode_start = self.clock
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        reward = float(self.agent + np.sum(action) + self.noise.normal())
        return self._observe(), reward, False, self.clock - self.episode_start == 10, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.agent, self.clock / 100, *self.noise.normal(size=2)], dtype=np.float32)


def marked(name: str, num_agents: int = AGENTS) -> VecEnv:
    def build(agent: int) -> Callable[[], gym.Env[Any, Any]]:
        return lambda: Monitor(Marked(agent, name in DISCRETE))

    return DummyVecEnv([build(agent) for agent in range(num_agents)])


def settings(name: str, **others: Any) -> dict[str, Any]:
    plain = {"policy_kwargs": {"net_arch": [16, 16]}, "learning_starts": 20, "batch_size": 40, "buffer_size": 2000}
    return {**plain, "seed": 3, "device": "cpu", **OWN.get(name, {}), **others}


def ours(name: str, num_agents: int = AGENTS, **others: Any) -> Any:
    return PAIRS[name][1]("MlpPolicy", marked(name, num_agents), **settings(name, **others))


@dataclass
class Update:
    """One gradient step of ours: what it was made of, and the gradient that each optimiser found."""

    samples: Any
    agents: np.ndarray
    masked: np.ndarray
    before: dict[str, Any]
    entropy: Tensor | None
    gradients: dict[str, Tensor] = field(default_factory=dict)
    critic_after: dict[str, Tensor] = field(default_factory=dict)


def optimizers(model: Any) -> dict[str, Any]:
    return {part.optimizer: recursive_getattr(model, part.optimizer) for part in model.algorithm.parts}


def gradient_of(optimizer: Any) -> Tensor:
    parameters = optimizer.param_groups[0]["params"]
    return torch.cat([(torch.zeros_like(item) if item.grad is None else item.grad).flatten() for item in parameters])


def plain(state: Any) -> Any:
    """A copy of ``get_parameters()`` that shares no memory."""
    if isinstance(state, dict):
        return {key: plain(item) for key, item in state.items() if key != "exchange"}
    return (
        state.clone() if isinstance(state, Tensor) else [plain(item) for item in state] if isinstance(state, list) else state
    )


def record_update(model: Any) -> Update:
    """Take one gradient step."""
    entropy = getattr(model, "log_ent_coef", None)
    before, found = plain(model.get_parameters()), {}
    entropy = None if entropy is None else entropy.detach().clone()
    minibatches = model._serve(model.replay_buffer)
    draw = minibatches.sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        found["samples"] = draw(*args, **kwargs)
        return found["samples"]

    minibatches.sample = sample
    gradients: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    for name, optimizer in optimizers(model).items():

        def step(name: str = name, optimizer: Any = optimizer) -> None:
            gradients[name] = gradient_of(optimizer)
            type(optimizer).step(optimizer)
            if name == "critic.optimizer":
                after.update(plain(model.critic.state_dict()))

        optimizer.step = step
    model.train(gradient_steps=1, batch_size=model.batch_size)
    del minibatches.sample
    for optimizer in optimizers(model).values():
        del optimizer.step
    batch = minibatches.batch
    masked = np.zeros(model.n_envs, dtype=bool) if batch.masked is None else batch.masked.numpy()
    return Update(found["samples"], batch.agents.numpy(), masked, before, entropy, gradients, after)


def separate(name: str, update: Update, agent: int, **others: Any) -> tuple[dict[str, Tensor], float]:
    """Gradients and critic loss of one agent's samples alone, by stock's ``train()`` from the same parameters."""
    others = {"max_grad_norm": 1e9, **others} if name in DISCRETE else others
    stock = PAIRS[name][0]("MlpPolicy", marked(name), **settings(name, **others))
    stock.set_logger(Logger(folder=None, output_formats=[]))
    stock.set_parameters(update.before)
    if update.entropy is not None:
        stock.log_ent_coef.data.copy_(update.entropy)
    rows = torch.as_tensor(np.flatnonzero(update.agents == agent))
    own = type(update.samples)(*[None if item is None else item[rows] for item in update.samples])
    stock.replay_buffer.sample = lambda batch_size, env=None: own
    gradients: dict[str, Tensor] = {}
    networks = ("policy.optimizer",) if name in DISCRETE else ("critic.optimizer", "actor.optimizer")
    for key in networks:
        optimizer = recursive_getattr(stock, key)

        def step(key: str = key, optimizer: Any = optimizer) -> None:
            gradients[key] = gradient_of(optimizer)
            if key == "critic.optimizer":  # the actor's loss is of the critic after the common step
                stock.critic.load_state_dict(update.critic_after)

        optimizer.step = step
    stock.train(gradient_steps=1, batch_size=len(rows))
    loss = stock.logger.name_to_value["train/loss" if name in DISCRETE else "train/critic_loss"]
    return gradients, float(loss)


def clipped(name: str, gradient: Tensor) -> Tensor:
    limit = OWN.get(name, {}).get("max_grad_norm")
    return gradient if limit is None else gradient * min(1.0, limit / (gradient.norm().item() + 1e-6))
