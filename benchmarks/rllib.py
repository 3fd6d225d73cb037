"""AggPPO alongside RLlib's PPO, and A3C alongside RLlib's IMPALA, in environment steps per second of wall time.

The learner alone, which runs in this process, is measured in updates per second of CPU time on one torch thread.

Systems take turns within every repeat, stock first and last, and a ratio is that of one repeat's system to the mean of its two
stock runs; the second stock run shows what the machine's noise alone does. Run nothing else at the same time: Ray starts its
workers at nice 15.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import ray
import record
import torch
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig

from rllib_agg import A3CConfig, AggPPOConfig

RULES = ("mean", "r_weighted", "l_weighted")
STOCK, AGAIN = "stock", "stock again"
MODEL = {"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh", "vf_share_layers": False}
STEPS = "num_env_steps_sampled_lifetime"


def ppo(config: Any, options: argparse.Namespace, num_env_runners: int) -> Any:
    """PPO's settings, the same for stock and ours."""
    return (
        config.environment(options.env)
        .env_runners(num_env_runners=num_env_runners, num_envs_per_env_runner=options.agents // max(1, num_env_runners))
        .rl_module(model_config=MODEL)
        .training(train_batch_size_per_learner=options.samples, minibatch_size=128, num_epochs=10, lr=3e-4)
        .debugging(seed=0)
    )


def ppo_systems(options: argparse.Namespace, num_env_runners: int) -> dict[str, Any]:
    """Built algorithms by name."""
    configs = {
        STOCK: ppo(PPOConfig(), options, num_env_runners),
        **{rule: ppo(AggPPOConfig(), options, num_env_runners).training(aggregation=rule) for rule in RULES},
        AGAIN: ppo(PPOConfig(), options, num_env_runners),
    }
    return {name: config.build_algo() for name, config in configs.items()}


def end_to_end(algorithm: Any) -> float:
    """Environment steps per second of one ``train()``."""
    before = algorithm.metrics.peek(("env_runners", STEPS), default=0)
    start = time.perf_counter()
    algorithm.train()
    elapsed = time.perf_counter() - start
    return float((algorithm.metrics.peek(("env_runners", STEPS)) - before) / elapsed)


def learner_only(algorithm: Any, episodes: list[Any]) -> float:
    """Updates per CPU second from the same episodes, connectors included."""
    own = copy.deepcopy(episodes)
    gc.collect()
    gc.freeze()  # what others left behind is not this system's to sweep
    start = time.process_time()
    algorithm.learner_group.update(
        episodes=own, num_epochs=10, minibatch_size=128, shuffle_batch_per_epoch=True, timesteps={STEPS: 1}
    )
    return 1.0 / (time.process_time() - start)


def compare(options: argparse.Namespace, figure: str, num_env_runners: int) -> list[dict[str, Any]]:
    """Alternate stock PPO and ours.

    :param figure: ``"end_to_end"`` or ``"learner_only"``.
    """
    systems = ppo_systems(options, num_env_runners)
    measure: dict[str, Callable[[], float]]
    if figure == "end_to_end":
        measure = {name: (lambda algorithm=algorithm: end_to_end(algorithm)) for name, algorithm in systems.items()}
    else:
        # Each system learns from episodes that its own runner sampled: ours carry the agents' columns.
        sampled = {name: algorithm.env_runner.sample(num_timesteps=options.samples) for name, algorithm in systems.items()}
        measure = {
            name: (lambda algorithm=algorithm, episodes=sampled[name]: learner_only(algorithm, episodes))
            for name, algorithm in systems.items()
        }
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for repeat in range(options.repeats + 1):
        for name, once in measure.items():
            rate = once()
            if repeat:  # the first round warms up
                rates[name].append(rate)
    for algorithm in systems.values():
        algorithm.stop()
    return [
        _row(options, figure, name, env_runners=num_env_runners, rates=rates[name], stock=rates[STOCK], again=rates[AGAIN])
        for name in systems
    ]


def asynchronous(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Alternate IMPALA and A3C on as many env runners; only one is alive at a time, for both keep their runners busy."""
    runners = {"num_env_runners": options.env_runners, "num_envs_per_env_runner": 1}

    def a3c() -> Any:
        return A3CConfig().env_runners(**runners, rollout_fragment_length=20).training(gradients_per_iteration=100)

    def impala() -> Any:
        config = IMPALAConfig().env_runners(**runners, rollout_fragment_length=50).learners(num_learners=1)
        return config.training(train_batch_size_per_learner=500).reporting(min_time_s_per_iteration=1)

    systems: dict[str, Callable[[], Any]] = {"impala": impala, "a3c": a3c, "impala again": impala}
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(options.repeats):
        for name, build in systems.items():
            algorithm = build().environment(options.env).rl_module(model_config=MODEL).build_algo()
            algorithm.train()
            rates[name].append(_sustained(algorithm, options.seconds))
            algorithm.stop()
    return [
        _row(
            options,
            "async",
            name,
            env_runners=options.env_runners,
            rates=rates[name],
            stock=rates["impala"],
            again=rates["impala again"],
        )
        for name in systems
    ]


def _sustained(algorithm: Any, seconds: float) -> float:
    before, start = algorithm.metrics.peek(("env_runners", STEPS), default=0), time.perf_counter()
    while time.perf_counter() - start < seconds:
        algorithm.train()
    after = algorithm.metrics.peek(("env_runners", STEPS), default=0)
    return float((after - before) / (time.perf_counter() - start))


def _row(
    options: argparse.Namespace,
    figure: str,
    name: str,
    *,
    env_runners: int,
    rates: list[float],
    stock: list[float],
    again: list[float],
) -> dict[str, Any]:
    ratios = [2 * rate / (a + b) for rate, a, b in zip(rates, stock, again, strict=True)]
    row = {
        "figure": figure,
        "environment": options.env,
        "agents": options.env_runners if figure == "async" else options.agents,
        "env_runners": env_runners,
        "system": name,
        "repeats": options.repeats,
        "rate_per_second": round(statistics.median(rates), 3),
        "rate_over_stock": round(statistics.median(ratios), 3),
        "rate_over_stock_min": round(min(ratios), 3),
        "rate_over_stock_max": round(max(ratios), 3),
        "time_over_stock": round(1 / statistics.median(ratios), 3),
    }
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def main(arguments: list[str]) -> None:
    """Measure and write ``results/rllib.csv``."""
    parser = argparse.ArgumentParser(prog="run.py rllib", description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--env-runners", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4000, help="steps per update, all agents together")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long A3C and IMPALA run in each repeat")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ray.init(num_cpus=4 + 5 * options.env_runners, include_dashboard=False, log_to_driver=False)
    rows = compare(options, "end_to_end", 0)
    rows += compare(options, "end_to_end", options.env_runners)
    rows += compare(options, "learner_only", 0)
    rows += asynchronous(options)
    record.write("rllib", rows, ["rl-agg", "ray", "torch", "gymnasium", "numpy"])
