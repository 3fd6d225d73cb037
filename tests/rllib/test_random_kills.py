"""Env runners and drivers that are killed at random moments: nothing is lost, and nothing is counted twice."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from rllib_agg import A3CConfig, AggAPPOConfig, AggIMPALAConfig, AggPPO, DQLConfig, EBCDQLConfig, QMIXConfig
from tests.rllib.groups import MODULE
from tests.rllib.populations import core, tiny_es
from tests.rllib.ppo_configs import TINY, remote_ppo, tiny_ppo
from tests.rllib.qmix_runs import parameters
from tests.rllib.qmix_runs import tiny as tiny_qmix

pytestmark = pytest.mark.slow

KILLS = 20
ROOT = Path(__file__).parents[2]


class Killer(threading.Thread):
    """Kills an env runner every now and then, until it is over."""

    def __init__(self, algorithm: Any, seed: int) -> None:
        super().__init__(daemon=True)
        self._algorithm, self._random = algorithm, random.Random(seed)
        self.kills = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        actors = self._algorithm.env_runner_group._worker_manager.actors()
        while not self.is_over.is_set() and self.kills < KILLS:
            time.sleep(self._random.uniform(0.2, 1.5))
            pids = [pid for pid in map(_pid_of, list(actors.values())) if pid is not None]
            if pids:
                os.kill(self._random.choice(pids), signal.SIGKILL)
                self.kills += 1


def _pid_of(actor: Any) -> int | None:
    import ray

    try:
        pid: int = ray.get(actor.apply.remote(lambda runner: os.getpid()), timeout=2)
    except Exception:  # it is being restarted
        return None
    return pid


def trained(algorithm: Any, seed: int, seconds: float = 600) -> Killer:
    """Train until enough runners were killed, and once more."""
    killer, end = Killer(algorithm, seed), time.monotonic() + seconds
    killer.start()
    while killer.kills < KILLS and time.monotonic() < end:
        algorithm.train()
    killer.is_over.set()
    killer.join()
    algorithm.train()
    return killer


def updated(algorithm: Any) -> Any:
    """The result of an iteration in which there was somebody to sample."""
    for _ in range(60):
        result = algorithm.train()
        if not math.isnan(result["learners"][MODULE]["agg"]["messages"]):
            return result
        time.sleep(0.5)
    raise AssertionError("no env runner came back")


def test_es_learns_what_it_would_have(ray_session: None) -> None:
    algorithm = tiny_es(2).build_algo()
    killer = trained(algorithm, 1)
    server = algorithm.server
    expected = core(server.num_updates)
    assert (server.theta == expected.theta).all()
    assert server.ledger.messages == expected.ledger.messages
    assert server.ledger.bytes == expected.ledger.bytes
    assert killer.kills >= KILLS
    algorithm.stop()


@pytest.mark.parametrize("config_class", [DQLConfig, EBCDQLConfig])
def test_tabular_algorithms_learn_what_they_would_have(config_class: Any, ray_session: None) -> None:
    config = config_class().environment("rl_agg/SimpleGrid-v0").training(population=5).debugging(seed=5)
    config.fault_tolerance(delay_between_env_runner_restarts_s=0.0, env_runner_health_probe_timeout_s=20.0)
    algorithm = config.copy().env_runners(num_env_runners=2).build_algo()
    killer = trained(algorithm, 2)
    alone = config.copy().env_runners(num_env_runners=0).build_algo()
    while alone.server.num_updates < algorithm.server.num_updates:
        alone.train()
    np.testing.assert_array_equal(algorithm.server.theta, alone.server.theta)
    assert algorithm.server.ledger.messages == alone.server.ledger.messages
    assert killer.kills >= KILLS
    algorithm.stop()
    alone.stop()


def test_qmix_learns_what_it_would_have(ray_session: None) -> None:
    algorithm = tiny_qmix(num_env_runners=2).build_algo()
    assert isinstance(tiny_qmix(), QMIXConfig)
    killer = trained(algorithm, 3)
    alone = tiny_qmix().build_algo()
    while alone.server.num_updates < algorithm.server.num_updates:
        alone.train()
    for name, value in parameters(algorithm).items():
        assert (value == parameters(alone)[name]).all(), name
    assert killer.kills >= KILLS
    algorithm.stop()
    alone.stop()


def test_ppo_goes_on_with_whoever_is_there(ray_session: None) -> None:
    algorithm = remote_ppo().build_algo()
    killer = trained(algorithm, 4)
    result = updated(algorithm)
    agg = result["learners"][MODULE]["agg"]
    aggregator = algorithm.learner_group._learner.aggregator(MODULE)
    assert agg["messages"] == aggregator.exchange.ledger.messages_per_agent.sum()
    assert agg["messages"] <= 4 * result["training_iteration"]  # one gradient of each agent in an update at most
    assert agg["skipped_updates_lifetime"] == 0
    assert killer.kills >= KILLS
    algorithm.stop()


def test_a3c_steps_once_for_each_gradient(ray_session: None) -> None:
    config = A3CConfig().environment("CartPole-v1").env_runners(num_env_runners=2).rl_module(model_config=TINY)
    config.training(gradients_per_iteration=20).fault_tolerance(delay_between_env_runner_restarts_s=0.0)
    algorithm = config.build_algo()
    before = algorithm.learner.weights_seq_no
    killer = trained(algorithm, 5)
    messages = algorithm.exchange.ledger.messages
    assert algorithm.learner.weights_seq_no - before == messages
    assert killer.kills >= KILLS
    algorithm.stop()


@pytest.mark.parametrize("config_class", [AggIMPALAConfig, AggAPPOConfig])
def test_asynchronous_algorithms_go_on(config_class: Any, ray_session: None) -> None:
    config = config_class().environment("CartPole-v1").rl_module(model_config=TINY)
    config.env_runners(num_env_runners=2, rollout_fragment_length=10).training(train_batch_size_per_learner=40)
    config.fault_tolerance(delay_between_env_runner_restarts_s=0.0, env_runner_health_probe_timeout_s=20.0)
    algorithm = config.reporting(min_time_s_per_iteration=0).learners(num_learners=0).build_algo()
    killer = trained(algorithm, 6)
    steps = [algorithm.train()["num_env_steps_sampled_lifetime"] for _ in range(20)]
    assert steps == sorted(steps)
    assert killer.kills >= KILLS
    algorithm.stop()


DRIVER = """
import sys
from tests.rllib.ppo_configs import tiny_ppo
algorithm = tiny_ppo(aggregation="r_weighted", train_batch_size_per_learner=50).build_algo()
print("ready", flush=True)
for number in range(1000):
    algorithm.train()
    algorithm.save_to_path(f"{sys.argv[1]}/{number}.partial")
    import os
    os.rename(f"{sys.argv[1]}/{number}.partial", f"{sys.argv[1]}/{number}")
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_driver_leaves_checkpoints_that_are_whole_or_refused(seed: int, tmp_path: Path, ray_session: None) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, env=environment) as driver:
        assert driver.stdout is not None
        assert b"ready" in driver.stdout.readline()
        time.sleep(random.Random(seed).uniform(1, 4))
        for process in psutil.Process(driver.pid).children(recursive=True):
            process.kill()
        driver.kill()
    algorithm = tiny_ppo(aggregation="r_weighted", train_batch_size_per_learner=50).build_algo()
    whole = [path for path in tmp_path.iterdir() if path.suffix != ".partial"]
    assert whole
    for path in tmp_path.iterdir():
        before = algorithm.get_weights()
        try:
            algorithm.restore_from_path(path)
        except ValueError:
            assert path.suffix == ".partial"
            np.testing.assert_equal(algorithm.get_weights(), before)
    newest = AggPPO.from_checkpoint(str(max(whole, key=lambda path: int(path.name))))
    assert newest.train()["training_iteration"] > 1
    newest.stop()
    algorithm.stop()


def test_memory_and_descriptors_stay_flat_over_200_builds(ray_session: None) -> None:
    process, memory, descriptors = psutil.Process(), [], []
    config = tiny_ppo(aggregation="median", train_batch_size_per_learner=20)
    config.debugging(log_sys_usage=False)  # whose thread takes 0.7 seconds to end
    for number in range(200):
        algorithm = config.copy(copy_frozen=False).build_algo()
        algorithm.train()
        algorithm.stop()
        if number in (50, 199):
            memory.append(process.memory_info().rss / 2**20)
            descriptors.append(process.num_fds())
    assert descriptors[1] <= descriptors[0] + 5
    assert memory[1] <= memory[0] + 30  # MiB
