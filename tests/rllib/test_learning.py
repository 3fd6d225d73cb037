"""Every system learns; the settings here are the ones that the documentation names."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.tune.registry import register_env

from rllib_agg import A3CConfig, AggAPPOConfig, AggIMPALAConfig, AggPPOConfig, DQLConfig, EBCDQLConfig, ESConfig

pytestmark = pytest.mark.slow

SEEDS = [0, 1, 2]
SMALL = {"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh", "vf_share_layers": False}
EXAMPLES = Path(__file__).parents[2] / "examples"
RULES = ["sum", "mean", "samples", "r_weighted", "l_weighted"]


def best_return(config: Any, num_steps: int, enough: float) -> float:
    """Train until the mean return of the last 20 episodes is enough, or the steps are spent; the best of it."""
    algorithm = config.reporting(metrics_num_episodes_for_smoothing=20).build_algo()
    best, steps = float("-inf"), 0
    while steps < num_steps and best < enough:
        result = algorithm.train()
        runners = result.get("env_runners", {})
        best = max(best, runners.get("episode_return_mean", float("-inf")))
        steps = runners.get("num_env_steps_sampled_lifetime", steps)
    algorithm.stop()
    return best


def last_return(config: Any, num_steps: int, num_episodes: int) -> float:
    """Train until the steps are spent; the mean return of the last episodes."""
    algorithm = config.reporting(metrics_num_episodes_for_smoothing=num_episodes).build_algo()
    runners: dict[str, Any] = {}
    while runners.get("num_env_steps_sampled_lifetime", 0) < num_steps:
        runners = algorithm.train().get("env_runners", runners)
    algorithm.stop()
    return float(runners["episode_return_mean"])


def random_returns(env: str, num_episodes: int) -> NDArray[np.float64]:
    """Returns ``[num_episodes]`` of random actions."""
    made = gym.make(env)
    made.action_space.seed(0)
    returns = np.zeros(num_episodes)
    for episode in range(num_episodes):
        made.reset(seed=episode)
        done = False
        while not done:
            _, reward, terminated, truncated, _ = made.step(made.action_space.sample())
            returns[episode] += float(reward)
            done = terminated or truncated
    return returns


def cartpole_ppo(rule: str) -> AggPPOConfig:
    return (
        AggPPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        .rl_module(model_config=SMALL)
        .training(
            aggregation=rule,
            train_batch_size_per_learner=1024,
            minibatch_size=256,
            num_epochs=10,
            lr=1e-3,
            gamma=0.98,
            lambda_=0.9,
            entropy_coeff=0.0,
            vf_clip_param=1e4,
            use_kl_loss=False,
        )
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", RULES)
def test_agg_ppo_learns_cartpole(rule: str, seed: int, ray_session: None) -> None:
    assert best_return(cartpole_ppo(rule).debugging(seed=seed), 150_000, enough=450) >= 450


def cartpole_a3c() -> A3CConfig:
    return (
        A3CConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=2, rollout_fragment_length=20)
        .rl_module(model_config=SMALL)
        .training(lr=1e-3, entropy_coeff=0.01, gradients_per_iteration=100)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a3c_learns_cartpole(seed: int, ray_session: None) -> None:
    assert best_return(cartpole_a3c().debugging(seed=seed), 200_000, enough=450) >= 450


def scaled_pendulum(_: Any) -> gym.Env[Any, Any]:
    """Pendulum whose rewards, down to -16 a step, are about 1."""
    return gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda reward: reward / 8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a3c_learns_a_continuous_task(seed: int, ray_session: None) -> None:
    """Its last 100 episodes of Pendulum are better than 100 at random, and by more than chance: 5 standard errors."""
    register_env("ScaledPendulum", scaled_pendulum)
    config = (
        A3CConfig()
        .environment("ScaledPendulum")
        .env_runners(num_env_runners=2, num_envs_per_env_runner=4, rollout_fragment_length=32)
        .env_runners(env_to_module_connector=lambda env, spaces, device: MeanStdFilter())
        .rl_module(model_config={**SMALL, "free_log_std": True})
        .training(lr=1e-3, gamma=0.9, lambda_=0.9, entropy_coeff=0.0, vf_loss_coeff=0.5, grad_clip=0.5)
        .debugging(seed=seed)
    )
    at_random = random_returns("Pendulum-v1", 100)
    error = np.sqrt(2 * at_random.var(ddof=1) / 100)  # as if the trained policy's returns spread as widely
    assert 8 * last_return(config, 400_000, num_episodes=100) > at_random.mean() + 5 * error


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("config_class", [IMPALAConfig, AggIMPALAConfig, AggAPPOConfig])
def test_asynchronous_baselines_learn_cartpole(config_class: type, seed: int, ray_session: None) -> None:
    configure = runpy.run_path(str(EXAMPLES / "rllib_impala.py"))["configure"]
    config = configure(config_class(), "CartPole-v1").reporting(min_time_s_per_iteration=3).debugging(seed=seed)
    assert best_return(config, 600_000, enough=450) >= 450


def steady_centre(config: Any) -> float:
    """Best mean return of the server over ten updates in a row, of 200."""
    algorithm = config.environment("CartPole-v1").build_algo()
    returns = [algorithm.train()["env_runners"]["server"]["episode_return_mean"] for _ in range(200)]
    algorithm.stop()
    return max(sum(returns[start : start + 10]) / 10 for start in range(191))


@pytest.mark.parametrize(
    "gate", [{}, {"communication": "deviation", "expected_messages": 25}], ids=lambda gate: gate.get("communication", "every")
)
def test_es_learns_cartpole(gate: dict[str, Any], ray_session: None) -> None:
    """In 70 % of 20 trials; the rest begin where no perturbation changes an action."""
    configs = [ESConfig().training(**gate).debugging(seed=seed) for seed in range(20)]
    assert sum(steady_centre(config) >= 450 for config in configs) >= 14


def test_simple_grid_is_solved_with_few_bytes(ray_session: None) -> None:
    settings = {"lr": 1.0, "communication_kwargs": {"rho": 1.0, "beta": 0.3, "epsilon": 0.1}}
    bytes_sent = {}
    for config in (DQLConfig().training(lr=1.0), EBCDQLConfig().training(**settings)):
        algorithm = config.environment("rl_agg/SimpleGrid-v0").debugging(seed=0).build_algo()
        for _ in range(1000):
            result = algorithm.train()
        assert result["env_runners"]["server"]["episode_len_mean"] == 8
        bytes_sent[type(config)] = result["learners"]["default_policy"]["agg"]["bytes"]
        algorithm.stop()
    assert bytes_sent[EBCDQLConfig] <= 0.06 * bytes_sent[DQLConfig]
