"""Local models in files, from seeds, and from one model to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO
from tests.sb3.flattened import flat
from tests.sb3.local_runs import AGENTS, STEPS, build, copies, learn, write
from tests.sb3.worlds import cartpoles

CONTINUED = [
    ("fedavg", {}),
    ("fedavg", {"interval": 3, "moments": "merge", "local_epochs": [1, 2, 2]}),
    ("fedprox", {"interval": 3, "mu": 0.5}),
    ("actor_sum", {}),
    ("actor_mean", {"same_init": False}),
]


@pytest.mark.parametrize(("scheme", "kwargs"), CONTINUED)
@pytest.mark.parametrize("cls", [AggPPO, AggA2C, AggMaskablePPO])
def test_a_file_goes_on_as_if_nothing_had_happened(cls: Any, scheme: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    """Two updates, then two more: a merge every three lies between."""
    model = build(scheme, cls, aggregation_kwargs=kwargs)
    learn(model, 2)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu")
    assert torch.equal(copies(loaded), copies(model))
    for item in (model, loaded):
        item.set_random_seed(11)
        item._last_obs = None
        learn(item, 2, reset_num_timesteps=False)
    assert torch.equal(flat(loaded.policy), flat(model.policy))
    assert torch.equal(copies(loaded), copies(model))
    assert loaded.ledger.summary() == model.ledger.summary()


@pytest.mark.parametrize(("scheme", "kwargs"), CONTINUED)
def test_same_seed_same_copies(scheme: str, kwargs: dict[str, Any]) -> None:
    one, other = (learn(build(scheme, aggregation_kwargs=kwargs), 3) for _ in range(2))
    assert torch.equal(copies(one), copies(other))
    assert not torch.equal(copies(one), copies(learn(build(scheme, aggregation_kwargs=kwargs, seed=1), 3)))


def test_a_file_is_a_stock_model_of_the_average(tmp_path: Path) -> None:
    model = learn(build("actor_sum"), 2)
    model.save(tmp_path / "model")
    stock = PPO.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu")
    torch.testing.assert_close(flat(stock.policy), copies(model).mean(0))
    assert torch.equal(flat(stock.policy), flat(model.policy))
    stock.learn(STEPS * AGENTS)
    assert not torch.equal(flat(stock.policy), flat(model.policy))


@pytest.mark.parametrize("scheme", ["fedavg", "actor_sum"])
def test_agents_start_from_a_stock_file(scheme: str, tmp_path: Path) -> None:
    settings = {"n_steps": STEPS, "batch_size": 24, "seed": 0, "device": "cpu"}
    stock = PPO("MlpPolicy", cartpoles(AGENTS), **settings).learn(STEPS * AGENTS)
    stock.save(tmp_path / "stock")
    model = AggPPO.load(tmp_path / "stock", env=cartpoles(AGENTS), device="cpu", aggregation=scheme)
    assert torch.equal(copies(model), flat(stock.policy).expand(AGENTS, -1))
    learn(model, reset_num_timesteps=False)
    assert not torch.equal(flat(model.policy), flat(stock.policy))


@pytest.mark.parametrize("num_agents", [2, 5])
def test_more_and_fewer_agents_after_a_load(num_agents: int, tmp_path: Path) -> None:
    model = learn(build("actor_sum"), 2)
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(num_agents), device="cpu", batch_size=10)
    rows, shared = copies(loaded), min(num_agents, AGENTS)
    assert torch.equal(rows[:shared], copies(model)[:shared])
    assert torch.equal(rows[shared:], flat(model.policy).expand(num_agents - shared, -1))
    learn(loaded, reset_num_timesteps=False)
    assert (copies(loaded) - rows).norm(dim=1).min() > 0


def test_parameters_go_from_model_to_model_and_back() -> None:
    model, other = learn(build("actor_mean"), 2), build("actor_mean", seed=3)
    other.set_parameters(model.get_parameters())
    assert torch.equal(copies(other), copies(model))
    assert torch.equal(flat(other.policy), flat(model.policy))
    before = copies(model)
    model.set_parameters(model.get_parameters())
    assert torch.equal(copies(model), before)
    learn(model)
    assert torch.equal(copies(other), before)  # nothing is shared between the two


def test_parameters_without_copies_are_everyone_s() -> None:
    model, other = learn(build("actor_mean"), 2), build("mean", seed=3)
    model.set_parameters(other.get_parameters())
    assert torch.equal(copies(model), flat(other.policy).expand(AGENTS, -1))


@pytest.mark.parametrize("scheme", ["fedavg", "actor_sum"])
def test_who_writes_to_the_policy_writes_to_all(scheme: str) -> None:
    """As an imitation learner does before reinforcement learning takes over."""
    model = learn(build(scheme, learning_rate=1e-30), 1)
    target = torch.randn_like(flat(model.policy))
    write(model.policy, target)
    learn(model)
    torch.testing.assert_close(copies(model), target.expand(AGENTS, -1))


@pytest.mark.gpu
@pytest.mark.parametrize("cls", [AggPPO, AggA2C, AggMaskablePPO])
@pytest.mark.parametrize(("scheme", "kwargs"), CONTINUED)
def test_on_cuda(scheme: str, kwargs: dict[str, Any], cls: Any, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = learn(build(scheme, cls, aggregation_kwargs=kwargs, device="cuda"), 4)
    model.save(tmp_path / "model")
    for device in ("cuda", "cpu"):
        loaded = cls.load(tmp_path / "model", env=cartpoles(AGENTS), device=device)
        assert torch.equal(copies(loaded).cpu(), copies(model).cpu())
        learn(loaded, 2)
