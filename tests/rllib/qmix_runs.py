"""Small runs of QMIX."""

from __future__ import annotations

from typing import Any

import torch

from rllib_agg import QMIX, QMIXConfig

SMALL = {"hidden_dim": 8, "hypernet_dim": 8, "central_dim": 8}
PLAIN: dict[str, Any] = {
    "lr": 5e-4,
    "epsilon": [[0, 1.0], [50_000, 0.05]],
    "td_lambda": 0.0,
    "bootstrap_at_time_limit": True,
    "updates_per_episode": 1.0,
    "reward_normalization": None,
    "normalize_states": False,
    "parameter_sharing": "none",
}
"""One-step targets of rewards as they are, a network each, and an update for every episode."""


def tiny(env: str = "matrix/two_step", num_env_runners: int = 0, **training: Any) -> QMIXConfig:
    settings = {"train_batch_size_per_learner": 8, "target_network_update_freq": 5, "rollouts_per_iteration": 2}
    return (
        QMIXConfig()
        .environment(env)
        .env_runners(num_env_runners=num_env_runners, num_envs_per_env_runner=4)
        .rl_module(model_config=SMALL)
        .training(**PLAIN, **settings)
        .training(**training)
        .fault_tolerance(delay_between_env_runner_restarts_s=0.0, env_runner_health_probe_timeout_s=20.0)
        .debugging(seed=3)
    )


def parameters(algorithm: QMIX) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in algorithm.learner.team.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value == other[name]).all(), name


def built(config: QMIXConfig, iterations: int = 0) -> QMIX:
    algorithm = config.build_algo()
    for _ in range(iterations):
        algorithm.train()
    return algorithm
