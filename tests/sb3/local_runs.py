"""Models whose agents have parameters of their own, and the same by stock models trained alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from torch import Tensor

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO
from sb3_agg.rollouts.minibatches import Minibatches
from tests.sb3.flattened import flat

AGENTS, STEPS = 3, 32
SCHEMES = ["fedavg", "fedprox", "actor_sum", "actor_mean"]
NET = {"net_arch": [8]}


class Served(Minibatches):
    """Remembers the minibatches of the last update."""

    record: list[Any]

    def _serve(self, samples: Any, part: int) -> Any:
        self.record.append(samples)
        return super()._serve(samples, part)


def build(scheme: Any = "fedavg", cls: Any = AggPPO, env: Any = None, num_agents: int = AGENTS, **settings: Any) -> Any:
    settings = {"n_steps": STEPS, "seed": 0, "device": "cpu", "policy_kwargs": dict(NET), **settings}
    if cls is not AggA2C:
        settings = {"batch_size": 8 * num_agents, "n_epochs": 2, **settings}
    env = make_vec_env(env or "CartPole-v1", num_agents, seed=0) if env is None or isinstance(env, str) else env
    kwargs = settings.pop("aggregation_kwargs", {})
    return cls("MlpPolicy", env, aggregation=scheme, aggregation_kwargs=kwargs, **settings)


def learn(model: Any, updates: int = 1, **kwargs: Any) -> Any:
    if isinstance(model, AggMaskablePPO):
        kwargs["use_masking"] = False
    return model.learn(updates * model.n_steps * model.n_envs, **kwargs)


def write(policy: Any, row: Tensor) -> Any:
    """Put ``[P]`` into a policy."""
    torch.nn.utils.vector_to_parameters(row.clone(), policy.parameters())
    return policy


def own_state(parameters: dict[str, Any]) -> dict[str, Any]:
    """What the agents have of their own, in the result of ``get_parameters()``."""
    state: dict[str, Any] = parameters["policy.optimizer"]["local_models"]
    return state


def copies(model: Any) -> Tensor:
    rows: Tensor = own_state(model.get_parameters())["copies"]
    return rows.clone()


def recorded(model: Any, updates: int = 1) -> list[list[Any]]:
    """Learn, and return the minibatches of each update."""
    record: list[list[Any]] = []

    class Recording(Served):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.record = []
            record.append(self.record)

    model.minibatches_class = Recording
    learn(model, updates)
    return record


def of_agent(samples: Any, agent: int, num_agents: int) -> Any:
    """Its part of a minibatch."""
    size = len(samples.advantages) // num_agents
    return type(samples)(*[field[agent * size : (agent + 1) * size] for field in samples])


class Alone:
    """A stock algorithm that is given its minibatches. ``prox`` is added to the gradients before they are clipped."""

    def __init__(self, stock: Any, env: str, start: Any, settings: dict[str, Any], mu: float = 0.0) -> None:
        own = {"n_steps": STEPS, "seed": 5, "device": "cpu", "policy_kwargs": dict(NET), "normalize_advantage": False}
        self.model = stock("MlpPolicy", make_vec_env(env, 1), **{**own, **settings})
        self.model.set_logger(Logger(None, []))
        self.model.policy.load_state_dict(start.state_dict())
        self.mu = mu
        for parameter in self.model.policy.parameters():
            parameter.register_post_accumulate_grad_hook(self._draw)
        self.start_from(flat(self.model.policy))

    def start_from(self, merged: Tensor) -> None:
        write(self.model.policy, merged)
        self.merged = {parameter: parameter.detach().clone() for parameter in self.model.policy.parameters()}

    def _draw(self, parameter: Any) -> None:
        parameter.grad += self.mu * (parameter.detach() - self.merged[parameter])

    def train(self, minibatches: list[Any]) -> Tensor:
        epochs = getattr(self.model, "n_epochs", 1)
        served = iter(np.array_split(np.arange(len(minibatches)), epochs))
        self.model.rollout_buffer.get = lambda *_, **__: (minibatches[i] for i in next(served))
        self.model.train()
        return flat(self.model.policy)


STOCK = {AggPPO: PPO, AggA2C: A2C, AggMaskablePPO: MaskablePPO}
