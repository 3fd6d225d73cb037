"""What weighting and combining cost alongside stock DQN, QR-DQN, SAC, TD3, DDPG and TQC.

Every repeat runs all systems in turn in this process, stock first and last; figures are CPU seconds of a whole ``learn()`` on
one torch thread, and ratios are medians over repeats of a system's time over the mean of its repeat's two stock runs.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from typing import Any

import record
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env

import sb3_agg

SYSTEMS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    **{rule: {"aggregation": rule} for rule in ("mean", "samples", "r_weighted", "l_weighted")},
    **{combiner: {"aggregation": combiner} for combiner in ("median", "trimmed_mean", "krum", "geometric_median")},
    "mean, lag": {"aggregation": "mean", "communication": "lag"},
    "stock again": None,
}
ENVIRONMENTS = {"DQN": "CartPole-v1", "QRDQN": "CartPole-v1"}
"""Where it is not HalfCheetah-v5."""
RATIOS = ("learn_over_stock", "learn_over_stock_min", "learn_over_stock_max")


def seconds(name: str, settings: dict[str, Any] | None, agents: int, steps: int) -> float:
    """CPU seconds of ``learn()`` with SB3's defaults, but for steps without training."""
    kind: Any = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    if settings is not None:
        kind = getattr(sb3_agg, f"Agg{name}")
    env = make_vec_env(ENVIRONMENTS.get(name, "HalfCheetah-v5"), agents, seed=0)
    model = kind("MlpPolicy", env, learning_starts=0, buffer_size=50_000, seed=0, device="cpu", **(settings or {}))
    gc.collect()
    start = time.process_time()
    model.learn(steps)
    used = time.process_time() - start
    env.close()
    return used


def main(arguments: list[str]) -> None:
    """Measure and write ``results/off_policy.csv``."""
    parser = argparse.ArgumentParser(prog="run.py off_policy", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--updates", type=int, default=400, help="gradient steps in one learn()")
    parser.add_argument("--algorithms", nargs="+", default=["DQN", "QRDQN", "SAC", "TD3", "DDPG", "TQC"])
    parser.add_argument(
        "--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), help="stock's two are always run"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    systems = {name: own for name, own in SYSTEMS.items() if name in options.systems or own is None}
    for name in options.algorithms:
        # By default DQN and QR-DQN make one update in four steps of all environments, the others one in each
        steps = options.updates * options.agents * (4 if name in ENVIRONMENTS else 1)
        seconds(name, {}, options.agents, steps // 10)  # imports and caches
        runs: dict[str, list[float]] = {system: [] for system in systems}
        for _ in range(options.repeats):
            for system, own in systems.items():
                runs[system].append(seconds(name, own, options.agents, steps))
        stock = [(first + last) / 2 for first, last in zip(runs["stock"], runs["stock again"], strict=True)]
        for system, times in runs.items():
            ratios = [used / reference for used, reference in zip(times, stock, strict=True)]
            figures = (statistics.median(ratios), min(ratios), max(ratios))
            rows.append(
                {
                    "algorithm": name,
                    "agents": options.agents,
                    "system": system,
                    "repeats": options.repeats,
                    "learn_seconds": round(statistics.median(times), 3),
                    **dict(zip(RATIOS, (round(figure, 3) for figure in figures), strict=True)),
                }
            )
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        record.write("off_policy", rows, ["rl-agg", "stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy"])
