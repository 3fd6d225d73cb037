"""Seeds, files and continuations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO
from tests.sb3.flattened import parameters
from tests.sb3.worlds import cartpoles

CLASSES = {AggPPO: "MlpPolicy", AggA2C: "MlpPolicy", AggMaskablePPO: "MlpPolicy", AggRecurrentPPO: "MlpLstmPolicy"}
SETTLED = [AggPPO, AggA2C, AggMaskablePPO, pytest.param(AggRecurrentPPO, marks=pytest.mark.slow)]


def build(cls: Any, **settings: Any) -> Any:
    kwargs = {"aggregation": "r_weighted", "aggregation_kwargs": {"h": 3}, "n_steps": 32, "seed": 1, "device": "cpu"}
    if cls is AggRecurrentPPO:
        kwargs["policy_kwargs"] = {"lstm_hidden_size": 8}  # not 256
    return cls(CLASSES[cls], cartpoles(4, 1), **{**kwargs, **settings})


def learn(model: Any, steps: int, **kwargs: Any) -> Any:
    if isinstance(model, AggMaskablePPO):
        kwargs["use_masking"] = False
    return model.learn(steps, **kwargs)


@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
@pytest.mark.parametrize(
    ("cls", "rule"),
    [
        *[(AggPPO, rule) for rule in ("sum", "mean", "samples", "r_weighted", "l_weighted")],
        *[(cls, "r_weighted") for cls in (AggA2C, AggMaskablePPO)],
        pytest.param(AggRecurrentPPO, "r_weighted", marks=pytest.mark.slow),
    ],
)
def test_same_seed_gives_the_same_parameters(cls: Any, rule: str, minibatches: str) -> None:
    one, other = (learn(build(cls, aggregation=rule, aggregation_kwargs={}, minibatches=minibatches), 256) for _ in range(2))
    assert torch.equal(parameters(one), parameters(other))


def test_another_seed_gives_others() -> None:
    assert not torch.equal(parameters(learn(build(AggPPO), 256)), parameters(learn(build(AggPPO, seed=2), 256)))


@pytest.mark.parametrize("cls", SETTLED)
def test_a_loaded_model_is_the_one_saved(cls: Any, tmp_path: Path) -> None:
    extra = {} if cls is AggA2C else {"batch_size": None}
    model = learn(build(cls, advantage_norm="stock", min_episodes=1, **extra), 512)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=cartpoles(4, 1), device="cpu")
    assert torch.equal(parameters(loaded), parameters(model))
    np.testing.assert_array_equal(loaded.agent_returns, model.agent_returns)
    assert np.isfinite(loaded.agent_returns).all()
    names = ("aggregation", "aggregation_kwargs", "advantage_norm", "minibatches", "min_episodes", "fused_optimizer")
    assert {name: getattr(loaded, name) for name in names} == {name: getattr(model, name) for name in names}
    assert getattr(loaded, "batch_size", None) == getattr(model, "batch_size", None)
    saved, restored = model.policy.optimizer.state_dict(), loaded.policy.optimizer.state_dict()
    assert restored["param_groups"] == saved["param_groups"]
    for index, state in saved["state"].items():
        assert all(torch.equal(restored["state"][index][key], value) for key, value in state.items())


@pytest.mark.parametrize("cls", SETTLED)
def test_two_continuations_from_one_file_are_identical(cls: Any, tmp_path: Path) -> None:
    learn(build(cls), 256).save(tmp_path / "model")
    continued = []
    for _ in range(2):
        model = cls.load(tmp_path / "model", env=cartpoles(4, 1), device="cpu")
        model.set_random_seed(11)
        continued.append(parameters(learn(model, 256, reset_num_timesteps=False)))
    assert torch.equal(*continued)


def test_known_returns_weigh_agents_before_new_ones_arrive(tmp_path: Path) -> None:
    """A continuation starts from what was known of each agent, not from equal weights."""
    model = build(AggPPO, n_steps=8, batch_size=16)
    model.learn(8 * 4 * 8)
    known = model.agent_returns.copy()
    assert np.isfinite(known).all()
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(4, 1), device="cpu")
    loaded.learn(8 * 4, reset_num_timesteps=False)  # eight steps: CartPole cannot fall so soon
    np.testing.assert_array_equal(loaded.agent_returns, known)
    expected = (known - known.min()) / (known - known.min()).sum() + 1 / 3
    np.testing.assert_allclose(loaded.agent_weights, expected, rtol=1e-5)


def test_more_and_fewer_environments_after_a_load(tmp_path: Path) -> None:
    model = build(AggPPO)
    model.learn(256).save(tmp_path / "model")
    for num_agents in (8, 2):
        loaded = AggPPO.load(tmp_path / "model", env=cartpoles(num_agents), device="cpu")
        shared = min(num_agents, 4)
        np.testing.assert_array_equal(loaded.agent_returns[:shared], model.agent_returns[:shared])
        assert np.isnan(loaded.agent_returns[shared:]).all()
        loaded.learn(32 * num_agents, reset_num_timesteps=False)
        assert loaded.agent_weights.shape == (num_agents,)


def test_set_parameters_round_trip() -> None:
    model, other = learn(build(AggPPO), 256), build(AggPPO, seed=5)
    other.set_parameters(model.get_parameters())
    assert torch.equal(parameters(model), parameters(other))


def test_a_callable_rule_survives_a_file(tmp_path: Path) -> None:
    def first_only(signals: Any) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(0), signals.num_agents).double()

    learn(build(AggPPO, aggregation=first_only, aggregation_kwargs=None), 128).save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(4), device="cpu")
    loaded.learn(128)
    np.testing.assert_array_equal(loaded.agent_weights, [1, 0, 0, 0])


def test_weights_are_restored_and_unknown_arguments_refused(tmp_path: Path) -> None:
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="r_weighted", n_steps=32, batch_size=32, device="cpu").learn(256)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(AggPPO.load(tmp_path / "model", env=cartpoles(4)).agent_weights, model.agent_weights)
    assert AggPPO.load(tmp_path / "model", env=cartpoles(4), aggregation="mean", n_epochs=3).n_epochs == 3
    with pytest.raises(ValueError, match=r"agregation.*did you mean 'aggregation'"):
        AggPPO.load(tmp_path / "model", env=cartpoles(4), agregation="mean")
