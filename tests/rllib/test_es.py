"""Evolution strategies on RLlib: the core's numbers, for any number of env runners, also when some die."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray import cloudpickle, tune
from ray.rllib.core.columns import Columns

from rl_agg.evolution import MLP
from rl_agg.evolution.normalization import normalized
from rllib_agg import ES
from tests.rllib.populations import GATED, core, tiny_es
from tests.rllib.results import agg
from tests.rllib.searches import Search, each_search

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def remote(ray_session: None) -> Iterator[ES]:
    """Two runners."""
    algorithm = tiny_es(2, normalize_observations=True, **GATED).build_algo()
    yield algorithm
    algorithm.stop()


@pytest.mark.remote
def test_two_runners_give_the_parameters_of_the_core(remote: ES, tmp_path: Path) -> None:
    for _ in range(6):
        result = remote.train()
    expected = core(6, normalize_observations=True, **GATED)
    assert (remote.server.theta == expected.theta).all()
    assert (remote.module.read() == expected.theta).all()
    logged = agg(result)
    assert logged["messages"] == expected.ledger.messages
    assert logged["bytes"] == expected.ledger.bytes == expected.ledger.messages * (6 + 4 * 9)
    assert logged["physical_bytes"] > logged["bytes"]
    assert logged["mu_frequency"] == expected.measures["mu_frequency"]
    assert result["env_runners"]["episode_return_mean"] == logged["mu_reward"]  # gamma is 1
    assert result["env_runners"]["num_episodes_lifetime"] == 66
    assert result["env_runners"]["server"]["episode_return_mean"] > 0


@pytest.mark.remote
def test_killed_runner_changes_nothing(remote: ES) -> None:
    before = remote.server.num_updates
    pids = remote.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(pids[0], signal.SIGKILL)
    result = remote.train()
    assert remote.server.num_updates == before + 1
    expected = core(before + 1, normalize_observations=True, **GATED)
    assert (remote.server.theta == expected.theta).all()
    assert agg(result)["messages"] == expected.ledger.messages
    assert agg(result)["masked_agents"] == 0


@pytest.mark.remote
def test_runners_that_follow_seeds_give_the_parameters_of_the_core(ray_session: None) -> None:
    """One that was killed has lost the parameters, and asks for them."""
    algorithm = tiny_es(2, broadcast="seeds", **GATED).build_algo()
    for update in range(6):
        if update == 3:
            pids = algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
            os.kill(pids[0], signal.SIGKILL)
        result = algorithm.train()
    expected = core(6, **GATED)
    assert (algorithm.server.theta == expected.theta).all()
    assert agg(result)["bytes"] == expected.ledger.bytes
    assert agg(result)["bytes_down"] < expected.ledger.bytes_down
    algorithm.stop()


@pytest.mark.remote
def test_with_all_runners_killed_the_update_is_repeated(remote: ES) -> None:
    remote.train()
    before = remote.server.num_updates
    pids = remote.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for _ in range(10):
        remote.train()
        if remote.server.num_updates >= before + 2:
            break
    expected = core(remote.server.num_updates, normalize_observations=True, **GATED)
    assert remote.server.num_updates >= before + 2
    assert (remote.server.theta == expected.theta).all()


class Noisy(gym.Wrapper[Any, Any, Any, Any]):
    """Pendulum of 20 steps that pays NaN in some episodes, or raises."""

    def __init__(self, config: Any) -> None:
        super().__init__(gym.make("Pendulum-v1", max_episode_steps=20))
        self._config = config
        self._seed = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._seed = seed or 0
        if self._config.get("raises"):
            raise OSError("no power")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        return observation, float("nan") if self._seed % 3 == 0 else reward, *rest


def test_nan_returns_are_masked_and_counted(ray_session: None) -> None:
    algorithm = tiny_es(max_episode_steps=20).environment(Noisy).build_algo()
    result = algorithm.train()
    masked = agg(result)["masked_agents"]
    assert 0 < masked < 10
    assert agg(result)["messages"] == 10 - masked
    assert np.isfinite(algorithm.server.theta).all()
    assert np.isfinite(result["env_runners"]["episode_return_mean"])
    algorithm.stop()


def test_continuous_actions_and_sampling(ray_session: None) -> None:
    config = tiny_es(normalize_observations=True).environment("Pendulum-v1").env_runners(explore=True)
    algorithm = config.rl_module(model_config={"fcnet_hiddens": [4], "action_noise_stdev": 0.3}).build_algo()
    for _ in range(2):
        result = algorithm.train()
    assert result["num_env_steps_sampled_lifetime"] == 2 * 11 * 200
    module = algorithm.get_module()
    observations = torch.tensor([[1.0, 0.0, 8.0]])
    mean, log_stdev = module.forward_inference({Columns.OBS: observations})[Columns.ACTION_DIST_INPUTS][0]
    assert log_stdev.exp().item() == pytest.approx(0.3)
    statistics = algorithm.server.statistics
    assert statistics.count == 2 * 10 * 200
    scaled = normalized(observations.numpy(), statistics.mean, statistics.deviation)
    network = MLP((3, 4, 1), "tanh")
    expected = network.forward(network.stack(algorithm.server.theta[None]), scaled)[0, 0]
    assert mean.item() == pytest.approx(expected, abs=1e-5)
    assert algorithm.evaluate()["env_runners"]["episode_return_mean"] < 0
    algorithm.stop()


def test_grid_world(ray_session: None) -> None:
    algorithm = tiny_es().environment("rl_agg/SimpleGrid-v0").build_algo()
    result = algorithm.train()
    assert -100 <= result["env_runners"]["episode_return_mean"] < 0
    assert algorithm.evaluate()["env_runners"]["episode_return_mean"] < 0
    algorithm.stop()


def test_an_environments_error_is_raised(ray_session: None) -> None:
    algorithm = tiny_es(max_episode_steps=20).environment(Noisy, env_config={"raises": True}).build_algo()
    with pytest.raises(RuntimeError, match="no power"):
        algorithm.train()
    algorithm.stop()


@each_search
def test_tune_searches_over_gates(search: Search, ray_session: None, tmp_path: Path) -> None:
    config = tiny_es(communication=tune.grid_search(["random", "deviation"]), expected_messages=2)
    results = search(ES, config, tmp_path)
    assert [result["config"]["communication"] for result in results] == ["random", "deviation"]
    for result in results:
        assert agg(result)["messages"] < 20
        assert result["env_runners"]["server"]["episode_return_mean"] > 0
