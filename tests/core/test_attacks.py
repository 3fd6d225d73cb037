"""Agents that send something else than their gradient."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from rl_agg.attacks import ATTACKS, Attack
from tests.core.gradients import normal


@pytest.mark.parametrize("kind", sorted(ATTACKS))
@pytest.mark.parametrize("agents", [[0], (1, 3), range(4)])
def test_only_the_attackers_rows_change(kind: str, agents: Any) -> None:
    gradients = normal(4, 10)
    before = gradients.clone()
    attacked = Attack(kind, agents, scale=3.0)(gradients, step=2)
    assert torch.equal(gradients, before)
    for agent in range(4):
        assert torch.equal(attacked[agent], gradients[agent]) == (agent not in agents)


def test_what_they_send() -> None:
    gradients = normal(3, 10)
    assert torch.equal(Attack("sign_flip", [1])(gradients, 0)[1], -gradients[1])
    assert torch.equal(Attack("sign_flip", [1], scale=5)(gradients, 0)[1], -5 * gradients[1])
    assert torch.equal(Attack("scale", [2], scale=-0.5)(gradients, 0)[2], -0.5 * gradients[2])
    assert Attack("nan", [0])(gradients, 0)[0].isnan().all()


def test_random_gradients_have_the_size_of_the_true_ones() -> None:
    gradients = normal(2, 5000) * 7
    attacked = Attack("random", [0], scale=3.0)(gradients, 0)
    assert attacked[0].norm() / gradients[0].norm() == pytest.approx(3.0, rel=0.05)
    assert abs(torch.cosine_similarity(attacked[0], gradients[0], dim=0)) < 0.1
    assert attacked[0].mean() == pytest.approx(0.0, abs=1.0)


def test_random_gradients_depend_on_seed_and_step_alone() -> None:
    gradients = normal(2, 20)
    drawn = Attack("random", [0], seed=1)(gradients, 3)
    torch.rand(5)
    assert torch.equal(Attack("random", [0], seed=1)(gradients, 3), drawn)
    assert not torch.equal(Attack("random", [0], seed=1)(gradients, 4), drawn)
    assert not torch.equal(Attack("random", [0], seed=2)(gradients, 3), drawn)
    state = torch.get_rng_state()
    Attack("random", [0])(gradients, 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", sorted(ATTACKS))
def test_precision_stays(kind: str, dtype: torch.dtype) -> None:
    assert Attack(kind, [0])(normal(2, 3).to(dtype), 0).dtype == dtype


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "signflip"},
            "unknown attack 'signflip' (did you mean 'sign_flip'?); choose from nan, random, scale, sign_flip",
        ),
        ({"agents": []}, "agents must be numbers >= 0 of those who attack, got []"),
        ({"agents": [-1]}, "agents must be numbers >= 0 of those who attack, got [-1]"),
        ({"agents": [True]}, "agents must be numbers >= 0"),
        ({"agents": [1.0]}, "agents must be numbers >= 0"),
        ({"agents": 2}, "agents must be numbers >= 0 of those who attack, got 2"),
        ({"scale": float("nan")}, "scale must be a finite number, got nan"),
        ({"scale": float("inf")}, "scale must be a finite number, got inf"),
        ({"scale": "3"}, "scale must be a finite number, got '3'"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Attack(**{"kind": "nan", "agents": [0], **settings})


def test_agents_that_there_are_not() -> None:
    Attack("nan", [0, 3]).check(4)
    with pytest.raises(ValueError, match="agent 3 cannot attack: agents are numbered 0 to 2"):
        Attack("nan", [0, 3]).check(3)
