"""What dies or hangs does not take the training with it, or says what to do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
from ray import cloudpickle, tune
from ray.rllib.core.learner.training_data import TrainingData

from rllib_agg import A3CConfig, AggAPPOConfig, AggIMPALAConfig, AggPPO, LearnerLostError
from rllib_agg.aggregation.agents import agent_of
from tests.rllib.ppo_configs import TINY, remote_ppo, tiny_ppo
from tests.rllib.results import MODULE, agg, agg_of_first_update

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.remote


def die(actor: Any) -> None:
    sys.exit(1)


def kill_runner(algorithm: Any, index: int) -> None:
    algorithm.env_runner_group.foreach_env_runner(die, remote_worker_ids=[index], local_env_runner=False, timeout_seconds=10)


def kill_learner(algorithm: Any, index: int, noticed: bool) -> None:
    """Behind RLlib's back, or in a call of its own."""
    group = algorithm.learner_group
    if noticed:
        group.foreach_learner(die, remote_actor_ids=[index], timeout_seconds=10)
    else:
        ray.kill(group._worker_manager.actors()[index])


def agents_present(algorithm: AggPPO) -> set[int]:
    return {agent_of(e) for es in algorithm.env_runner_group.foreach_env_runner(sample, local_env_runner=False) for e in es}


def sample(runner: Any) -> list[Any]:
    return runner.sample(num_timesteps=10)


@pytest.mark.slow
def test_killed_a3c_runner_comes_back(ray_session: None) -> None:
    config = A3CConfig().environment("CartPole-v1").env_runners(num_env_runners=2).rl_module(model_config=TINY)
    config.training(gradients_per_iteration=10).fault_tolerance(delay_between_env_runner_restarts_s=0.0)
    algorithm = config.build_algo()
    algorithm.train()
    kill_runner(algorithm, 1)
    for _ in range(60):
        before = algorithm.learner.weights_seq_no
        algorithm.train()
        assert algorithm.learner.weights_seq_no >= before + 10
        if algorithm.env_runner_group.num_healthy_remote_env_runners() == 2:
            break
        time.sleep(0.5)
    assert algorithm.env_runner_group.num_healthy_remote_env_runners() == 2
    algorithm.stop()


@pytest.mark.parametrize("config_class", [AggIMPALAConfig, AggAPPOConfig])
def test_asynchronous_algorithms_wait_for_the_only_runner(config_class: Any, ray_session: None) -> None:
    config = config_class().environment("CartPole-v1").rl_module(model_config=TINY).learners(num_learners=0)
    config.env_runners(num_env_runners=1, rollout_fragment_length=10).training(train_batch_size_per_learner=40)
    config.fault_tolerance(delay_between_env_runner_restarts_s=0.0, env_runner_health_probe_timeout_s=0.1)
    algorithm = config.reporting(min_time_s_per_iteration=0).build_algo()
    algorithm.train()
    kill_runner(algorithm, 1)
    before = algorithm.train()["num_env_steps_sampled_lifetime"]
    end = time.monotonic() + 60
    while algorithm.train()["num_env_steps_sampled_lifetime"] <= before:
        assert time.monotonic() < end
    algorithm.stop()


@pytest.mark.parametrize("config_class", [AggIMPALAConfig, AggAPPOConfig])
def test_an_asynchronous_update_without_its_episodes_is_left_out(config_class: Any, ray_session: None) -> None:
    config = config_class().environment("CartPole-v1").rl_module(model_config=TINY).learners(num_learners=0)
    config.env_runners(num_env_runners=0, rollout_fragment_length=10).training(train_batch_size_per_learner=40)
    algorithm = config.reporting(min_time_s_per_iteration=0).build_algo()
    before = algorithm.get_weights()
    lost = TrainingData(episodes_refs=[ray.put([])])  # as RLlib leaves out what a dead runner held
    assert algorithm.learner_group.update(training_data=lost, timesteps={}, defer_solve_refs_to_learner=True) == [{}]
    np.testing.assert_equal(algorithm.get_weights(), before)
    algorithm.stop()


def test_killed_learner_says_what_to_do_and_its_checkpoint_continues(ray_session: None, tmp_path: Path) -> None:
    algorithm = tiny_ppo().learners(num_learners=2).build_algo()
    algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    kill_learner(algorithm, 1, noticed=False)
    started = time.monotonic()
    with pytest.raises(LearnerLostError, match=r"(?s)one of 2 learners failed or died.*from_checkpoint.*FailureConfig"):
        algorithm.train()
    assert time.monotonic() - started < 60
    algorithm.stop()
    restored = tiny_ppo().build_algo()  # with the learners that were lost, in tests/rllib/test_local_learners.py
    restored.restore_from_path(path)
    assert restored.train()["training_iteration"] == 2
    restored.stop()


@pytest.mark.slow
@pytest.mark.parametrize("noticed", [False, True])
def test_killed_asynchronous_learner_trained_and_says_what_to_do(noticed: bool, ray_session: None) -> None:
    config = AggIMPALAConfig().environment("CartPole-v1").rl_module(model_config=TINY).learners(num_learners=1)
    config.env_runners(num_env_runners=1, num_envs_per_env_runner=2, rollout_fragment_length=10)
    config.training(aggregation="l_weighted", train_batch_size_per_learner=40)
    algorithm = config.reporting(min_time_s_per_iteration=0).build_algo()
    logged = agg_of_first_update(algorithm)
    assert logged["weight_max"] >= logged["weight_min"] > 0
    assert logged["skipped_updates"] == 0
    kill_learner(algorithm, 0, noticed)
    started = time.monotonic()
    with pytest.raises(LearnerLostError, match=r"(?s)1 learners .*died.*from_checkpoint.*FailureConfig"):
        train_for_a_minute(algorithm)
    assert time.monotonic() - started < 60
    algorithm.stop()


def train_for_a_minute(algorithm: Any) -> None:
    """Asynchronous: a lost learner shows when the next train batch is full."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        algorithm.train()


class Faulty(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole, whose copies on one runner do what its ``faults`` say."""

    def __init__(self, config: Any) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self._fault = config["faults"].get(config.worker_index)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        if self._fault == "reward":
            reward = float("nan")
        elif self._fault == "observation":
            observation = np.full_like(observation, np.inf)
        elif self._fault == "hang":
            time.sleep(10_000)
        return observation, reward, *rest


@pytest.fixture(scope="module")
def faulty(ray_session: None) -> Iterator[AggPPO]:
    """Three runners with two agents each, of which only the first runner's environments are sound."""
    config = remote_ppo(train_batch_size_per_learner=120).env_runners(num_env_runners=3)
    algorithm = config.environment(Faulty, env_config={"faults": {2: "reward", 3: "observation"}}).build_algo()
    yield algorithm
    algorithm.stop()


def test_agents_of_faulty_environments_are_masked(faulty: AggPPO) -> None:
    for _ in range(3):
        logged = agg(faulty.train())
    assert logged["masked_agents"] == 4
    assert logged["weight_max"] == pytest.approx(1.0, abs=0.5)  # two agents are left, with weights that sum to 2
    assert logged["skipped_updates"] == 0
    read = lambda learner: all(p.isfinite().all() for p in learner.module[MODULE].parameters())  # noqa: E731
    assert all(result.get() for result in faulty.learner_group.foreach_learner(read))


def test_killed_env_runner_comes_back_with_its_agents(faulty: AggPPO) -> None:
    everyone = set(range(6))
    assert agents_present(faulty) == everyone
    kill_runner(faulty, 1)
    for _ in range(60):
        faulty.train()
        if agents_present(faulty) == everyone:
            break
        time.sleep(0.5)
    assert agents_present(faulty) == everyone
    assert agg(faulty.train())["weight_max"] > 0  # of the agents that came back, as all others are masked


@pytest.mark.slow
def test_hanging_env_runner_does_not_hold_the_others_up(ray_session: None) -> None:
    config = remote_ppo().environment(Faulty, env_config={"faults": {2: "hang"}}).env_runners(sample_timeout_s=2.0)
    config.validate_env_runners_after_construction = False
    config.sync_filters_on_rollout_workers_timeout_s = 1.0
    algorithm = config.build_algo()
    for _ in range(2):
        logged = algorithm.train()["learners"][MODULE]["agg"]
    assert logged["weight_max"] > 0
    stop_hanging(algorithm)


def test_hanging_a3c_runner_does_not_hold_the_others_up(ray_session: None) -> None:
    config = A3CConfig().environment(Faulty, env_config={"faults": {2: "hang"}}).rl_module(model_config=TINY)
    config.env_runners(num_env_runners=2, sample_timeout_s=2.0).training(gradients_per_iteration=5)
    config.validate_env_runners_after_construction = False
    config.sync_filters_on_rollout_workers_timeout_s = 1.0
    algorithm = config.build_algo()
    for _ in range(2):
        logged = algorithm.train()["learners"][MODULE]["agg"]
    assert logged["messages"] == algorithm.learner.weights_seq_no >= 10
    stop_hanging(algorithm)


def stop_hanging(algorithm: Any) -> None:
    for actor in algorithm.env_runner_group._worker_manager.actors().values():
        ray.kill(actor)
    algorithm.stop()


@pytest.mark.slow
def test_tune_continues_by_itself_when_a_learner_dies(ray_session: None, tmp_path: Path) -> None:
    def kill_once(algorithm: Any, **kwargs: Any) -> None:
        flag = tmp_path / "killed"
        if algorithm.training_iteration == 2 and not flag.exists():
            flag.touch()
            kill_learner(algorithm, 0, noticed=False)

    config = tiny_ppo().learners(num_learners=2).callbacks(on_train_result=kill_once)
    results = tune.Tuner(
        AggPPO,
        param_space=config,
        run_config=tune.RunConfig(
            stop={"training_iteration": 5},
            storage_path=str(tmp_path),
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    ).fit()
    assert not results.errors
    assert (tmp_path / "killed").exists()
    assert results[0].metrics["training_iteration"] == 5
