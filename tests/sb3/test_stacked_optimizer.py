"""One optimiser for many agents against one for each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from sb3_agg.local_models.stacked_optimizer import ELEMENTWISE, StackedOptimizer

AGENTS, PARAMETERS = 3, 37
SETTINGS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.5, "centered": True}}


def pair(kind: type[torch.optim.Optimizer], **more: Any) -> tuple[torch.Tensor, StackedOptimizer, list[Any]]:
    torch.manual_seed(0)
    parameters = torch.randn(AGENTS, PARAMETERS)
    settings = {**SETTINGS.get(kind.__name__, {}), **more}
    alone = [kind([row.clone()], lr=0.01, **settings) for row in parameters]
    return parameters, StackedOptimizer(parameters, alone[0]), alone


def step(stacked: StackedOptimizer, alone: list[Any], stepping: list[bool] | None = None) -> None:
    gradients = torch.randn(AGENTS, PARAMETERS)
    stacked.gradients.copy_(gradients)
    stacked.step({"lr": 0.01}, None if stepping is None else torch.tensor(stepping))
    for agent, optimizer in enumerate(alone):
        if stepping is None or stepping[agent]:
            optimizer.param_groups[0]["params"][0].grad = gradients[agent].clone()
            optimizer.step()


def own(alone: list[Any]) -> torch.Tensor:
    return torch.stack([optimizer.param_groups[0]["params"][0] for optimizer in alone])


@pytest.mark.parametrize("skipping", [False, True])
@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_each_agent_steps_as_if_alone(kind: type[torch.optim.Optimizer], skipping: bool) -> None:
    parameters, stacked, alone = pair(kind)
    pattern = [None, [True, False, True], [False, True, True], [False, False, False], None, [True, True, False]]
    for stepping in pattern:
        step(stacked, alone, stepping if skipping else None)
    torch.testing.assert_close(parameters, own(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_the_fused_kernel_does_the_same(kind: type[torch.optim.Optimizer]) -> None:
    parameters, stacked, alone = pair(kind, fused=True)
    for stepping in (None, [True, False, True], None):
        step(stacked, alone, stepping)
    torch.testing.assert_close(parameters, own(alone), rtol=1e-6, atol=1e-6)


def test_an_agent_that_stays_behind_is_left_as_it_is() -> None:
    parameters, stacked, alone = pair(torch.optim.Adam)
    step(stacked, alone)
    before, moments = parameters.clone(), copy.deepcopy(stacked.state_dict()["state"][0])
    stacked.gradients.fill_(torch.nan)
    stacked.gradients[0] = 1.0
    stacked.step({"lr": 0.01}, torch.tensor([True, False, False]))
    assert torch.equal(parameters[1:], before[1:])
    assert not torch.equal(parameters[0], before[0])
    for agent in (1, 2):
        state = stacked.state_dict()["state"][agent]
        assert torch.equal(state["exp_avg"], moments["exp_avg"][agent])
        assert torch.equal(state["exp_avg_sq"], moments["exp_avg_sq"][agent])
        assert state["step"] == 1


@pytest.mark.parametrize("parted", [False, True])
def test_merged_moments_are_the_weighted_average(parted: bool) -> None:
    _, stacked, alone = pair(torch.optim.Adam)
    for stepping in (None, [True, True, False] if parted else None):
        step(stacked, alone, stepping)
    stacked.merge(torch.tensor([1.0, 3.0, 4.0]))
    states = [optimizer.state_dict()["state"][0] for optimizer in alone]
    for name in ("exp_avg", "exp_avg_sq"):
        expected = states[0][name] / 8 + states[1][name] * 3 / 8 + states[2][name] / 2
        merged = [state[name] for state in stacked.state_dict()["state"]]
        for row in merged if parted else merged[0]:
            torch.testing.assert_close(row, expected)
    steps = [float(state["step"]) for state in stacked.state_dict()["state"]]
    assert steps == ([1.5] * 3 if parted else [2.0])


@pytest.mark.parametrize("parted", [False, True])
def test_a_state_goes_on_to_the_bit(parted: bool) -> None:
    parameters, stacked, alone = pair(torch.optim.Adam, fused=True)
    for stepping in (None, [True, True, False] if parted else None, None):
        step(stacked, alone, stepping)
    again = parameters.clone()
    other = StackedOptimizer(again, alone[0])
    other.load_state_dict(copy.deepcopy(stacked.state_dict()))
    for _ in range(2):
        gradients = torch.randn(AGENTS, PARAMETERS)
        for item in (stacked, other):
            item.gradients.copy_(gradients)
            item.step({"lr": 0.01})
    assert torch.equal(parameters, again)


def test_others_are_refused() -> None:
    with pytest.raises(ValueError, match="optimizer_class Adafactor cannot step for several agents at once; choose from ASGD"):
        StackedOptimizer(torch.zeros(2, 3), torch.optim.Adafactor([torch.zeros(3)]))
