"""AggPPO on CartPole, small."""

from __future__ import annotations

from typing import Any

from rllib_agg import AggPPOConfig

TINY = {"fcnet_hiddens": [8], "vf_share_layers": False}


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
