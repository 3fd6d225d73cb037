"""Restoring evolution strategies from checkpoints, states in memory, weights alone and modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_agg.evolution import MLP
from rllib_agg import ES
from rllib_agg.es import ESModule
from tests.rllib.populations import core, tiny_es
from tests.rllib.results import agg


@pytest.fixture(scope="module")
def local(ray_session: None) -> Iterator[ES]:
    algorithm = tiny_es(communication="deviation", expected_messages=3).build_algo()
    yield algorithm
    algorithm.stop()


def test_a_checkpoint_restores_to_the_bit(local: ES, tmp_path: Path) -> None:
    for _ in range(4):
        local.train()
    path = local.save_to_path(tmp_path / "checkpoint")
    saved = local.server.state_dict()
    on = [local.train() for _ in range(3)]
    restored = ES.from_checkpoint(path)
    np.testing.assert_equal(restored.server.state_dict(), saved)
    again = [restored.train() for _ in range(3)]
    np.testing.assert_equal(restored.server.state_dict(), local.server.state_dict())
    for one, other in zip(on, again, strict=True):
        assert one["env_runners"]["episode_return_mean"] == other["env_runners"]["episode_return_mean"]
        assert one["num_env_steps_sampled_lifetime"] == other["num_env_steps_sampled_lifetime"]
        assert agg(one) == agg(other)
    local.restore_from_path(path)  # older than what is in place
    np.testing.assert_equal(local.server.state_dict(), saved)
    assert (local.module.read() == saved["theta"]).all()
    restored.stop()


def share_of_time_upright(observations: np.ndarray) -> list[float]:
    return [float((np.abs(observations[:, 2]) < 0.05).mean()), float(observations[-1, 0])]


@pytest.mark.parametrize(
    "settings",
    [
        {"novelty": "nsra", "fitness": "ranks", "novelty_kwargs": {"behaviour": share_of_time_upright, "patience": 1}},
        {"reuse": 2, "reuse_threshold": 0.01},
    ],
    ids=["novelty", "reuse"],
)
def test_archives_and_earlier_samples_are_restored_to_the_bit(
    settings: dict[str, Any], ray_session: None, tmp_path: Path
) -> None:
    algorithm = tiny_es(**settings).build_algo()
    for _ in range(3):
        algorithm.train()
    restored = ES.from_checkpoint(algorithm.save_to_path(tmp_path / "checkpoint"))
    for _ in range(3):
        logged = agg(algorithm.train())
        restored.train()
    np.testing.assert_equal(restored.server.state_dict(), algorithm.server.state_dict())
    np.testing.assert_equal(algorithm.server.state_dict(), core(6, **settings).state_dict())
    if "reuse" in settings:
        assert logged["reused_updates"] > 0
    else:
        assert (logged["archive_size"], logged["archive_bytes"]) == (6, 6 * 2 * 4)
    algorithm.stop()
    restored.stop()


def test_module_acts_as_the_core_does(local: ES) -> None:
    local.train()
    module = local.get_module()
    network = MLP((4, 8, 2), "tanh")
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    outputs = module.forward_inference({Columns.OBS: torch.tensor(observations)})[Columns.ACTION_DIST_INPUTS]
    parameters = np.repeat(local.server.theta[None], 5, axis=0)
    np.testing.assert_allclose(outputs.numpy(), network.forward(network.stack(parameters), observations), atol=1e-6)
    assert local.evaluate()["env_runners"]["episode_return_mean"] > 0


def test_weights_loaded_alone_are_trained_on(local: ES) -> None:
    local.module.write(np.full(58, 0.25, np.float32), None)
    local.train()
    assert np.abs(local.server.theta - 0.25).max() < 0.1


def test_an_older_state_in_memory_brings_back_the_older_parameters(ray_session: None) -> None:
    algorithm = tiny_es().build_algo()
    algorithm.train()
    state, theta = algorithm.get_state(), algorithm.server.theta.copy()
    first = algorithm.train()
    later = algorithm.server.theta.copy()
    algorithm.train()
    algorithm.set_state(state)
    np.testing.assert_array_equal(algorithm.module.read(), theta)
    algorithm.train()
    np.testing.assert_array_equal(algorithm.server.theta, later)
    assert agg(first)["updates"] == algorithm.server.num_updates == 2
    algorithm.stop()


def test_a_broadcast_of_seeds_continues_after_a_restore(ray_session: None, tmp_path: Path) -> None:
    """As a broadcast of parameters does, to the bit; the ledger counts as if the run had never stopped."""
    plain, seeded = tiny_es().build_algo(), tiny_es(broadcast="seeds").build_algo()
    for algorithm in (plain, seeded):
        algorithm.train()
        algorithm.train()
    path = seeded.save_to_path(tmp_path / "checkpoint")
    restored = ES.from_checkpoint(path)
    for algorithm in (plain, seeded, restored):
        algorithm.train()
    np.testing.assert_array_equal(seeded.server.theta, plain.server.theta)
    np.testing.assert_array_equal(restored.server.theta, plain.server.theta)
    assert restored.server.ledger.state_dict() == seeded.server.ledger.state_dict()
    assert agg(seeded.train())["bytes_down"] < agg(plain.train())["bytes_down"]
    seeded.restore_from_path(path)  # older than what its env runner holds
    seeded.train()
    np.testing.assert_array_equal(seeded.server.theta, restored.server.theta)
    for algorithm in (plain, seeded, restored):
        algorithm.stop()


def test_a_loaded_module_is_begun_with(ray_session: None, tmp_path: Path) -> None:
    trained = tiny_es().build_algo()
    trained.train()
    path = trained.get_module().save_to_path(tmp_path / "module")
    config = tiny_es()
    config.rl_module(
        rl_module_spec=RLModuleSpec(module_class=ESModule, load_state_path=path, model_config=config.model_config)
    )
    algorithm = config.build_algo()
    np.testing.assert_array_equal(algorithm.server.theta, trained.server.theta)
    with pytest.raises(ValueError, match="load_state_path does not go with normalize_observations=True"):
        config.copy(copy_frozen=False).training(normalize_observations=True).validate()
    trained.stop()
    algorithm.stop()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            *({"optimizer": "sgd"}, {"optimizer": "sgd", "communication": "deviation", "expected_messages": 3}),
            marks=pytest.mark.slow,
        ),
        ({"communication": "deviation", "expected_messages": 3}, {"optimizer": "sgd"}),
        pytest.param({"optimizer": "sgd"}, {}, marks=pytest.mark.slow),
    ],
)
def test_another_gate_or_optimizer_begins_afresh(
    before: dict[str, Any], after: dict[str, Any], ray_session: None, tmp_path: Path
) -> None:
    saved, other = tiny_es(**before).build_algo(), tiny_es(**after).build_algo()
    saved.train()
    other.train()
    other.restore_from_path(saved.save_to_path(tmp_path / "checkpoint"))
    np.testing.assert_array_equal(other.server.theta, saved.server.theta)
    fresh = tiny_es(**after).build_algo()
    for name in ("run", "num_updates", "theta"):
        setattr(fresh.server, name, getattr(saved.server, name))
    fresh.write_module()
    other.train()
    fresh.train()
    np.testing.assert_array_equal(other.server.theta, fresh.server.theta)
    for algorithm in (saved, other, fresh):
        algorithm.stop()


def test_a_network_that_does_not_fit_changes_nothing(ray_session: None, tmp_path: Path) -> None:
    saved, other = tiny_es().build_algo(), tiny_es().rl_module(model_config={"fcnet_hiddens": [4]}).build_algo()
    saved.train()
    theta = other.server.theta.copy()
    with pytest.raises(ValueError, match=r"does not fit: .* is of shape"):
        other.restore_from_path(saved.save_to_path(tmp_path / "checkpoint"))
    np.testing.assert_array_equal(other.module.read(), theta)
    assert (other.server.num_updates, other.train()["training_iteration"]) == (0, 1)
    saved.stop()
    other.stop()
