"""Many sets of parameters at once against one set after the other."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_agg.local_models.stacked_policy import StackedPolicy

AGENTS, SAMPLES = 3, 5
DICT = spaces.Dict({"here": spaces.Box(-1, 1, (3,)), "there": spaces.Box(-1, 1, (2,))})
VECTOR = spaces.Box(-1, 1, (4,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


class OwnPolicy(ActorCriticPolicy):
    """Of unknown origin, so that it goes through vmap."""


class Idle(gym.Env[Any, Any]):
    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def policies(policy: Any, observed: Any, acted: Any, algorithm: Any = PPO, **policy_kwargs: Any) -> list[Any]:
    env = Idle(observed, acted)
    settings = {"n_steps": 8, "batch_size": 8, "device": "cpu", "policy_kwargs": policy_kwargs}
    made = [algorithm(policy, env, seed=agent, **settings).policy for agent in range(AGENTS)]
    for item in made:
        for parameter in item.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def samples(space: spaces.Space[Any]) -> Any:
    """As SB3's rollout buffer has them."""
    space.seed(0)
    drawn = [space.sample() for _ in range(AGENTS * SAMPLES)]
    if isinstance(space, spaces.Dict):
        return {key: torch.as_tensor(np.stack([item[key] for item in drawn])) for key in space.spaces}
    stacked = torch.as_tensor(np.stack(drawn))
    return stacked.float() if isinstance(space, spaces.MultiBinary) else stacked


def part(item: Any, agent: int) -> Any:
    own = slice(agent * SAMPLES, (agent + 1) * SAMPLES)
    return {key: value[own] for key, value in item.items()} if isinstance(item, dict) else item[own]


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "discrete": ({"policy": "MlpPolicy", "observed": VECTOR, "acted": spaces.Discrete(3)}, True),
    "continuous": ({"policy": "MlpPolicy", "observed": VECTOR, "acted": spaces.Box(-1, 1, (2,))}, True),
    "several": ({"policy": "MlpPolicy", "observed": VECTOR, "acted": spaces.MultiDiscrete([2, 3])}, True),
    "buttons": ({"policy": "MlpPolicy", "observed": VECTOR, "acted": spaces.MultiBinary(3)}, True),
    "one-hot": ({"policy": "MlpPolicy", "observed": spaces.Discrete(4), "acted": spaces.Discrete(3)}, True),
    "dictionary": ({"policy": "MultiInputPolicy", "observed": DICT, "acted": spaces.Discrete(3)}, True),
    "masks": ({"policy": "MlpPolicy", "observed": VECTOR, "acted": spaces.Discrete(3), "algorithm": MaskablePPO}, True),
    "images": ({"policy": "CnnPolicy", "observed": IMAGE, "acted": spaces.Discrete(3)}, False),
    "own class": ({"policy": OwnPolicy, "observed": VECTOR, "acted": spaces.Box(-1, 1, (2,))}, False),
    "own class, discrete": ({"policy": OwnPolicy, "observed": VECTOR, "acted": spaces.Discrete(3)}, False),
}


@pytest.mark.parametrize("num_samples", [SAMPLES, 1])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_each_policy_alone(
    case: str, num_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SAMPLES", num_samples)
    settings, batched = CASES[case]
    alone = policies(**settings)
    policy = alone[0]
    names = [name for name, _ in policy.named_parameters()]
    stacked = {name: torch.stack([dict(item.named_parameters())[name].detach() for item in alone]) for name in names}
    for tensor in stacked.values():
        tensor.requires_grad_()
    observations, actions = samples(settings["observed"]), samples(settings["acted"])
    masks = {"action_masks": torch.rand(AGENTS * SAMPLES, 3) < 0.7} if case == "masks" else {}
    for mask in masks.values():
        mask[torch.arange(len(mask)), actions] = True
    before = [parameter.clone() for parameter in policy.parameters()]

    stacked_policy = StackedPolicy(policy, names)
    assert (stacked_policy._linear is not None) == batched
    outputs = stacked_policy(policy.evaluate_actions, stacked, observations, actions, **masks)
    sum(output.sum() for output in outputs).backward()

    for agent, item in enumerate(alone):
        own = {name: part(mask, agent) for name, mask in masks.items()}
        expected = item.evaluate_actions(part(observations, agent), part(actions, agent), **own)
        for output, one in zip(outputs, expected, strict=True):
            torch.testing.assert_close(part(output, agent), one, rtol=1e-5, atol=1e-5)
        sum(output.sum() for output in expected).backward()
        for name, parameter in item.named_parameters():
            torch.testing.assert_close(stacked[name].grad[agent], parameter.grad, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(*pair) for pair in zip(before, policy.parameters(), strict=True))
    assert "forward" not in vars(policy.action_net)


def test_what_does_not_differ_is_shared() -> None:
    """Frozen layers keep the policy's parameters, in linear layers as under vmap."""
    for kind in ("MlpPolicy", OwnPolicy):
        first, *_ = policies(kind, VECTOR, spaces.Discrete(3))
        names = [name for name, _ in first.named_parameters() if name.startswith("action_net")]
        stacked = {name: torch.stack([parameter.detach()] * AGENTS) for name, parameter in first.named_parameters()}
        stacked["action_net.bias"][1] += 1.0
        observations = samples(VECTOR)
        actions = samples(spaces.Discrete(3))
        values, log_prob, _ = StackedPolicy(first, names)(first.evaluate_actions, stacked, observations, actions)
        expected_values, expected_log_prob, _ = first.evaluate_actions(observations, actions)
        torch.testing.assert_close(values, expected_values)
        torch.testing.assert_close(log_prob, expected_log_prob)  # equal logits more make no difference


def test_a_policy_whose_layer_is_shared_by_two_places() -> None:
    first, *_ = policies("MlpPolicy", VECTOR, spaces.Discrete(3))
    first.mlp_extractor.value_net[0].weight = first.mlp_extractor.policy_net[0].weight
    names = [name for name, _ in first.named_parameters()]
    stacked = {name: torch.randn(AGENTS, *parameter.shape) for name, parameter in first.named_parameters()}
    observations = samples(VECTOR)
    (values,) = StackedPolicy(first, names)(first.predict_values, stacked, observations)
    for agent in range(AGENTS):
        first.load_state_dict({name: tensor[agent] for name, tensor in stacked.items()}, strict=False)
        torch.testing.assert_close(part(values, agent), first.predict_values(part(observations, agent)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_samples", [SAMPLES, 1])
def test_gradients_may_go_straight_to_where_they_are_wanted(num_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of weights that two layers share, of which each leaves a part."""
    monkeypatch.setitem(globals(), "SAMPLES", num_samples)
    first, *_ = policies("MlpPolicy", VECTOR, spaces.Discrete(3))
    first.mlp_extractor.value_net[0].weight = first.mlp_extractor.policy_net[0].weight
    own = dict(first.named_parameters())
    stacked = {name: torch.randn(AGENTS, *parameter.shape, requires_grad=True) for name, parameter in own.items()}
    inputs = samples(VECTOR), samples(spaces.Discrete(3))

    def gradients() -> tuple[torch.Tensor, ...]:
        outputs = StackedPolicy(first, list(own))(first.evaluate_actions, stacked, *inputs)
        return torch.autograd.grad(sum(output.sum() for output in outputs), list(stacked.values()))

    expected = gradients()
    for tensor in stacked.values():
        tensor.grad = torch.full_like(tensor, torch.nan)
    for tensor, one, other in zip(stacked.values(), gradients(), expected, strict=True):
        torch.testing.assert_close(one, other)
        is_there = one.data_ptr() == tensor.grad.data_ptr()
        assert is_there == (num_samples == 1 and tensor.ndim == 3) or tensor is stacked["mlp_extractor.policy_net.0.weight"]
