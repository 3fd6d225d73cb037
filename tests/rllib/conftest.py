"""One Ray session for all tests of this folder, and episodes that a real env runner sampled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_agg import AggPPOConfig
from rllib_agg.envs.team.registry import BACKENDS
from tests.rllib.team_worlds import make_corridor

torch.set_num_threads(1)

TINY = {"fcnet_hiddens": [8], "vf_share_layers": False}


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def corridor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team's environment of the tests' own, ``walk/corridor``."""
    monkeypatch.setitem(BACKENDS, "walk", make_corridor)


def tiny_ppo(num_envs: int = 5, **training: Any) -> AggPPOConfig:
    """AggPPO on CartPole with one small layer, sampling locally."""
    settings = {"train_batch_size_per_learner": 200, "minibatch_size": None, "num_epochs": 1, "lr": 0.01, **training}
    return (
        AggPPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs)
        .rl_module(model_config=TINY)
        .training(**settings)
        .debugging(seed=0)
    )


def remote_ppo(**training: Any) -> AggPPOConfig:
    """Two remote runners with two sub-environments each, restarted at once."""
    config = tiny_ppo(**{"aggregation": "r_weighted", "train_batch_size_per_learner": 80, **training})
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=2)
    return config.fault_tolerance(delay_between_env_runner_restarts_s=0.0, env_runner_health_probe_timeout_s=20.0)


@pytest.fixture(scope="session")
def spaces(ray_session: None) -> dict[str, Any]:
    return {"default_policy": _runner().get_spaces()["default_policy"]}


@pytest.fixture(scope="session")
def sample(ray_session: None) -> Callable[[], list[Any]]:
    """The same 200 steps of 5 agents each time it is called, in fresh copies: learners change episodes in place."""
    runner = _runner()
    runner.sample(num_timesteps=73)  # so that what follows starts in the middle of episodes
    episodes = runner.sample(num_timesteps=200)
    return lambda: copy.deepcopy(episodes)


def _runner() -> SingleAgentEnvRunner:
    config = tiny_ppo()
    config.validate()
    return SingleAgentEnvRunner(config=config)
