"""The scale of a step, against what optimisers really do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from rl_agg.optimizers import step_scale


def stepped(optimizer_class: Any, **settings: Any) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    torch.manual_seed(0)
    parameters = [torch.zeros(3, 2, requires_grad=True), torch.zeros(4, requires_grad=True)]
    optimizer = optimizer_class(parameters, lr=0.1, **settings)
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return optimizer, parameters


@pytest.mark.parametrize(
    ("optimizer_class", "settings"),
    [
        (torch.optim.Adam, {"betas": (0.0, 0.999)}),
        (torch.optim.AdamW, {"betas": (0.0, 0.9), "eps": 1e-3, "weight_decay": 0.0}),
        (torch.optim.Adam, {"betas": (0.0, 0.99), "fused": True}),
        (torch.optim.Adam, {"betas": (0.0, 0.5), "amsgrad": True}),
        (torch.optim.RMSprop, {"alpha": 0.9}),
        (torch.optim.RMSprop, {"alpha": 0.9, "centered": True}),
        (torch.optim.Adagrad, {}),
        (RMSpropTFLike, {"alpha": 0.9, "eps": 0.5}),
    ],
)
def test_step_is_the_scaled_gradient(optimizer_class: Any, settings: dict[str, Any]) -> None:
    """Without momentum, which is what the first beta of 0 switches off."""
    optimizer, parameters = stepped(optimizer_class, **settings)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in parameters])
    gradient = torch.randn(10)
    for parameter, part in zip(parameters, gradient.split([6, 4]), strict=True):
        parameter.grad = part.view_as(parameter).clone()
    optimizer.step()
    after = torch.cat([parameter.detach().flatten() for parameter in parameters])
    scale = step_scale(optimizer, parameters)
    assert scale is not None
    torch.testing.assert_close(after - before, -0.1 * scale * gradient, rtol=1e-4, atol=1e-6)


def test_parameters_of_different_numbers_of_steps() -> None:
    """A layer thawed later has seen fewer gradients."""
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)]
    optimizer = torch.optim.Adam(parameters, lr=0.1, betas=(0.0, 0.9))
    for trained in ([0], [0], [0, 1]):
        for place in trained:
            parameters[place].grad = torch.randn_like(parameters[place])
        optimizer.step()
        optimizer.zero_grad()
    scale = step_scale(optimizer, parameters)
    assert scale is not None
    for parameter, own in zip(parameters, scale.split([2, 3]), strict=True):
        state = optimizer.state[parameter]
        torch.testing.assert_close(own, 1 / ((state["exp_avg_sq"] / (1 - 0.9 ** float(state["step"]))).sqrt() + 1e-8))


def test_all_parameters_alike() -> None:
    optimizer, parameters = stepped(torch.optim.SGD, momentum=0.9)
    assert step_scale(optimizer, parameters) is None


def test_before_the_first_step() -> None:
    parameter = torch.zeros(3, requires_grad=True)
    assert step_scale(torch.optim.Adam([parameter]), [parameter]) is None
