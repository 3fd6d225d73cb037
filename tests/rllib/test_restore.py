"""A restored run continues to the bit, in a new algorithm or in place."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle

from rllib_agg import AggPPO
from tests.rllib.groups import MODULE, plain
from tests.rllib.ppo_configs import remote_ppo, tiny_ppo

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def learner_update(learner: Any, episodes: list[Any]) -> None:
    np.random.seed(3)
    torch.manual_seed(3)
    update = {"num_epochs": 2, "minibatch_size": 32, "shuffle_batch_per_epoch": True, "timesteps": {}}
    learner.update(episodes=copy.deepcopy(episodes), **update)


def learner_state(learner: Any) -> dict[str, Any]:
    state = learner.get_state()
    return {name: plain(state[name]) for name in ("rl_module", "optimizer", "aggregation", "weights_seq_no")}


def test_restored_algorithm_continues_to_the_bit(ray_session: None, sample: Callable[[], list[Any]], tmp_path: Path) -> None:
    algorithm = tiny_ppo(aggregation="r_weighted", kl_target=1e-6).build_algo()  # a target that moves the coefficient
    for _ in range(3):
        result = algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    learner = algorithm.learner_group.foreach_learner(lambda learner: learner).result_or_errors[0].get()
    saved = learner_state(learner)
    assert saved["aggregation"]["kl_coeffs"][MODULE] != 0.2
    assert np.isfinite(saved["aggregation"]["modules"][MODULE]["returns"]).any()

    restored = AggPPO.from_checkpoint(path)
    twin = restored.learner_group.foreach_learner(lambda learner: learner).result_or_errors[0].get()
    np.testing.assert_equal(learner_state(twin), saved)
    for _ in range(3):
        learner_update(learner, sample())
        learner_update(twin, sample())
    np.testing.assert_equal(learner_state(twin), learner_state(learner))

    again = restored.train()
    for counter in ("num_env_steps_sampled_lifetime", "training_iteration"):
        assert again[counter] > result[counter]

    algorithm.restore_from_path(path)  # older than what is in place
    np.testing.assert_equal(learner_state(learner), saved)
    algorithm.stop()
    restored.stop()


def test_restored_algorithm_counts_on(ray_session: None, tmp_path: Path) -> None:
    algorithm = tiny_ppo(aggregation="l_weighted", vf_loss_coeff=0.0).build_algo()  # what is left has a mean of 0
    for _ in range(4):
        counted = mixed_sign_updates(algorithm)
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    assert counted > 0
    further = mixed_sign_updates(algorithm)
    restored = AggPPO.from_checkpoint(path)
    assert counted <= mixed_sign_updates(restored) <= counted + 1
    algorithm.restore_from_path(path)
    assert counted <= mixed_sign_updates(algorithm) <= counted + 1 <= further + 1
    algorithm.stop()
    restored.stop()


def mixed_sign_updates(algorithm: AggPPO) -> float:
    """Of all updates, after one more."""
    return float(algorithm.train()["learners"][MODULE]["agg"]["mixed_sign_updates_lifetime"])


def runner_weights(runner: Any) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in runner.module.get_state().items()}


@pytest.mark.remote
def test_older_checkpoint_in_place_reaches_the_env_runners(ray_session: None, tmp_path: Path) -> None:
    algorithm = remote_ppo().env_runners(num_env_runners=1).build_algo()
    algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    read = lambda: algorithm.env_runner_group.foreach_env_runner(runner_weights, local_env_runner=False)  # noqa: E731
    saved = read()
    for _ in range(3):
        algorithm.train()
    newer = read()
    assert any((newer[0][name] != saved[0][name]).any() for name in saved[0])
    algorithm.restore_from_path(path)
    np.testing.assert_equal(read(), saved)
    algorithm.train()
    after = read()
    assert any((after[0][name] != saved[0][name]).any() for name in saved[0])  # the next sync is not dropped as too old
    algorithm.stop()


def test_a_run_continues_with_another_number_of_agents(ray_session: None) -> None:
    algorithm = tiny_ppo(aggregation="r_weighted").build_algo()
    for _ in range(3):
        algorithm.train()
    state = algorithm.get_state()
    for number in (1, 4):
        other = tiny_ppo(aggregation="r_weighted").env_runners(num_envs_per_env_runner=number).build_algo()
        other.set_state(state)
        learner = other.learner_group.foreach_learner(lambda learner: learner).result_or_errors[0].get()
        other.train()
        assert len(learner.aggregator(MODULE).returns) == number
        other.stop()
    algorithm.stop()
