"""Policies and worlds of all kinds, and each agent's gradient by a backward of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from sb3_agg import AggMaskablePPO, AggPPO, AggRecurrentPPO

AGENTS, STEPS = 5, 16  # krum bears one faulty agent among five
COMBINERS: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed_mean": {"num_byzantine": 2},
    "krum": {"num_selected": 2},
    "geometric_median": {"num_iterations": 3},
    "mixtailor": {"combiners": ("median", "krum"), "seed": 3},
    "torchjd:Mean": {},
}


def gradient(model: Any) -> Tensor:
    grads = [torch.zeros_like(item) if item.grad is None else item.grad for item in model.policy.parameters()]
    return torch.cat([grad.flatten() for grad in grads])


class Blink(gym.Env[Any, int]):
    """Ten steps of noise; what is observed is up to the subclass."""

    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.clock = 0
        return self.observe(), {}

    def step(self, action: int) -> Any:
        self.clock += 1
        return self.observe(), float(action) + self.np_random.normal(), self.clock == 10, False, {}

    def observe(self) -> Any:
        raise NotImplementedError


class BlinkDict(Blink):
    observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (3,)), "b": spaces.Box(-9, 9, (2,)), "c": spaces.Discrete(4)})

    def observe(self) -> Any:
        vector = self.np_random.normal(size=5).astype(np.float32)
        return {"a": vector[:3], "b": vector[3:], "c": int(self.np_random.integers(4))}


class BlinkImage(Blink):
    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def observe(self) -> Any:
        return self.np_random.integers(0, 256, (1, 36, 36), dtype=np.uint8)


class Extractor(BaseFeaturesExtractor):
    """A layer of the user's, and what follows it."""

    def __init__(self, space: spaces.Box, last: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__(space, 8)
        self.layers = nn.Sequential(nn.Linear(space.shape[0], 8), last())

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.layers(observations)
        return features


class Twice(Extractor):
    """Uses its layer twice, and another one now and then."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.other, self.on = nn.Linear(space.shape[0], 8), True

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.layers(observations) + torch.tanh(self.layers(observations**2))
        return features + self.other(observations) if self.on else features


class Around(Extractor):
    """Reaches around its layer for the weight."""

    def forward(self, observations: Tensor) -> Tensor:
        layer = self.layers[0]
        return nn.functional.linear(observations, layer.weight * 2, layer.bias)


class Folded(Extractor):
    """Shows its layer twice as many rows."""

    def forward(self, observations: Tensor) -> Tensor:
        return self.layers(torch.cat([observations, -observations])).chunk(2)[0]


def extractor(kind: type[Extractor], **settings: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"features_extractor_class": kind, "features_extractor_kwargs": settings}}


def masked_env() -> gym.Env[Any, Any]:
    return InvalidActionEnvDiscrete(dim=6, n_invalid_actions=3)


SMALL_CNN = {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}}
SETUPS: dict[str, tuple[Any, str, Any, dict[str, Any]]] = {
    "discrete": (AggPPO, "MlpPolicy", "CartPole-v1", {}),
    "continuous": (AggPPO, "MlpPolicy", "Pendulum-v1", {"ent_coef": 0.01}),
    "dict": (AggPPO, "MultiInputPolicy", BlinkDict, {}),
    "maskable": (AggMaskablePPO, "MlpPolicy", masked_env, {}),
    "recurrent": (AggRecurrentPPO, "MlpLstmPolicy", "CartPole-v1", {"policy_kwargs": {"lstm_hidden_size": 8}}),
    "image": (AggPPO, "CnnPolicy", BlinkImage, SMALL_CNN),
    "exploration": (AggPPO, "MlpPolicy", "Pendulum-v1", {"use_sde": True, "ent_coef": 0.01}),
    "separate": (
        AggPPO,
        "MlpPolicy",
        "CartPole-v1",
        {"policy_kwargs": {"share_features_extractor": False, "net_arch": [16], "features_extractor_class": Extractor}},
    ),
    "norm": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Extractor, last=lambda: nn.LayerNorm(8))),
    "in_place": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Extractor, last=lambda: nn.ReLU(inplace=True))),
    "twice": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Twice)),
    "around": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Around)),
    "folded": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Folded)),
    "one_sample": (AggPPO, "MlpPolicy", "CartPole-v1", {"batch_size": AGENTS, "n_steps": 4}),
    "one_sample_continuous": (AggPPO, "MlpPolicy", "Pendulum-v1", {"batch_size": AGENTS, "n_steps": 4, "ent_coef": 0.01}),
    "whole": (AggPPO, "MlpPolicy", "CartPole-v1", {"batch_size": None}),
    "whole_recurrent": (
        AggRecurrentPPO,
        "MlpLstmPolicy",
        "CartPole-v1",
        {"batch_size": None, "policy_kwargs": {"lstm_hidden_size": 8}},
    ),
    "stock": (AggPPO, "MlpPolicy", "CartPole-v1", {"minibatches": "stock", "batch_size": 12}),
    "stock_continuous": (AggPPO, "MlpPolicy", "Pendulum-v1", {"minibatches": "stock", "batch_size": 12, "ent_coef": 0.01}),
    "stock_image": (AggPPO, "CnnPolicy", BlinkImage, {"minibatches": "stock", "batch_size": 12, **SMALL_CNN}),
    "stock_recurrent": (
        AggRecurrentPPO,
        "MlpLstmPolicy",
        "CartPole-v1",
        {"minibatches": "stock", "batch_size": 20, "policy_kwargs": {"lstm_hidden_size": 8}},
    ),
}


def build(setup: str, **settings: Any) -> Any:
    cls, policy, env, own = SETUPS[setup]
    kwargs = {"n_steps": STEPS, "batch_size": 20, "n_epochs": 2, "max_grad_norm": 1e9, "seed": 1, "device": "cpu"}
    return cls(policy, make_vec_env(env, AGENTS, seed=1), **{**kwargs, **own, **settings})


def evaluate(model: Any, samples: Any, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, log-probabilities and entropies of some rows, by the policy's own method."""
    method, policy = type(model.policy).evaluate_actions, model.policy
    actions = samples.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else samples.actions
    if isinstance(model, AggRecurrentPPO):  # sequences cannot be taken apart
        found = method(policy, samples.observations, actions, samples.lstm_states, samples.episode_starts)
        return found[0].flatten()[rows], found[1][rows], found[2][rows]
    if isinstance(samples.observations, dict):
        observations: Any = {key: value[rows] for key, value in samples.observations.items()}
    else:
        observations = samples.observations[rows]
    masks = {"action_masks": samples.action_masks[rows]} if isinstance(model, AggMaskablePPO) else {}
    values, log_prob, entropy = method(policy, observations, actions[rows], **masks)
    return values.flatten(), log_prob, entropy


def own_loss(model: Any, samples: Any, rows: Tensor) -> tuple[float, Tensor]:
    """Value and gradient ``[P]`` of PPO's loss as Schulman et al. print it, with SB3's coefficients; mean of some rows."""
    values, log_prob, entropy = evaluate(model, samples, rows)
    ratio, advantages = (log_prob - samples.old_log_prob[rows]).exp(), samples.advantages[rows]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    losses = -surrogate - model.ent_coef * entropy + 0.5 * (samples.returns[rows] - values) ** 2
    weights = list(type(model.policy).parameters(model.policy))
    loss = losses.mean()
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    parts = [torch.zeros(w.numel()) if g is None else g.flatten() for w, g in zip(weights, grads, strict=True)]
    return loss.item(), torch.cat(parts)


class Owners:
    """Whose sample is whose, by what was observed and returned; not by any index."""

    def __init__(self, model: Any) -> None:
        buffer = model.rollout_buffer
        self.of = {key: index // buffer.buffer_size for index, key in enumerate(self.keys(buffer.log_probs, buffer.returns))}
        assert len(self.of) == buffer.n_envs * buffer.buffer_size

    @staticmethod
    def keys(*arrays: Any) -> list[tuple[float, ...]]:
        return list(zip(*[np.asarray(array).ravel().tolist() for array in arrays], strict=True))

    def __call__(self, samples: Any) -> Tensor:
        """-1 for the padding of sequences."""
        keys = self.keys(samples.old_log_prob, samples.returns)
        mask = getattr(samples, "mask", torch.ones(len(keys))) > 0
        return torch.tensor([self.of[key] if real else -1 for key, real in zip(keys, mask, strict=True)])


@dataclass
class Step:
    """One optimiser step, of the agents that have samples in it."""

    gradients: Tensor
    losses: np.ndarray
    number: int


def check_every_step(model: Any, expected: Callable[[Step], Tensor], num_steps: int) -> None:
    """Learn for two rollouts and compare the gradient of every step.

    :param expected: From a step to the merged gradient ``[P]``.
    """
    served, found, merged = [], [], []
    kind = model.minibatches_class
    model.minibatches_class = lambda *args, **kwargs: served.append(kind(*args, **kwargs)) or served[-1]

    def before(*_: Any) -> None:
        samples = served[-1].samples
        owners = Owners(model)(samples)
        agents = owners[owners >= 0].unique()
        own = [own_loss(model, samples, (owners == agent).nonzero().flatten()) for agent in agents]
        losses, gradients = zip(*own, strict=True)
        found.append(expected(Step(torch.stack(gradients), np.array(losses), len(found))))

    def after(*_: Any) -> None:
        merged.append(gradient(model))

    model.policy.optimizer.register_step_pre_hook(before)
    model.policy.optimizer.register_step_post_hook(after)
    model.learn(2 * model.n_steps * AGENTS)
    assert len(found) == len(merged) == num_steps
    for one, other in zip(merged, found, strict=True):
        assert ((one - other).norm() / other.norm()).item() <= 1e-5


def num_steps(model: Any) -> int:
    size = model.n_steps * AGENTS if model.batch_size is None else model.batch_size
    return 2 * model.n_epochs * -(-model.n_steps * AGENTS // size)
