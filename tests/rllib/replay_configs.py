"""AggDQN and AggSAC with small networks, sampling locally."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.sac import SACConfig

from rllib_agg import AggDQNConfig, AggSACConfig, DeepEBCDQLConfig
from rllib_agg.replay import REPLAYS

KINDS = tuple(REPLAYS)
MODEL = {"fcnet_hiddens": [8]}
NUM_AGENTS = 4


def small(config: Any, env: str, kind: str = KINDS[1], **training: Any) -> Any:
    """Any config of DQN or SAC, its own or ours, with four sub-environments."""
    replay = {"type": kind, "capacity": 2000, **({"alpha": 0.6, "beta": 0.4} if kind == KINDS[1] else {})}
    settings = {
        "train_batch_size_per_learner": 32,
        "num_steps_sampled_before_learning_starts": 64,
        "grad_clip": None,
        **training,
    }
    return (
        config.environment(env)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=NUM_AGENTS)
        .rl_module(model_config={**MODEL, "head_fcnet_hiddens": [8]})
        .training(replay_buffer_config=replay, **settings)
        .reporting(min_sample_timesteps_per_iteration=100, min_time_s_per_iteration=0)
        .debugging(seed=0)
    )


def tiny_dqn(kind: str = KINDS[1], *, make: Any = AggDQNConfig, **training: Any) -> Any:
    """On CartPole."""
    return small(make(), "CartPole-v1", kind, **{"lr": 1e-3, "target_network_update_freq": 200, **training})


def tiny_sac(kind: str = KINDS[1], *, make: Any = AggSACConfig, env: str = "Pendulum-v1", **training: Any) -> Any:
    """On Pendulum, or on an environment with actions of another kind."""
    return small(make(), env, kind, **{"actor_lr": 1e-3, "critic_lr": 1e-3, "alpha_lr": 1e-3, **training})


def tiny_ebcdql(**training: Any) -> DeepEBCDQLConfig:
    """On CartPole, with fragments of several steps."""
    config: DeepEBCDQLConfig = tiny_dqn(make=DeepEBCDQLConfig, **training).env_runners(rollout_fragment_length=8)
    return config


STOCK = {AggDQNConfig: DQNConfig, AggSACConfig: SACConfig}
