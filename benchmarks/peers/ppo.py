"""SBX (SB3 on JAX), a plain loop of torch and AggPPO against stock SB3, wall and CPU time of ``learn()`` after compilation.

Needs ``pip install sbx-rl`` in an environment of its own alongside this package; it is no dependency. Systems take turns;
ratios are medians over repeats. Writes ``results/peers_ppo.csv``: ``python benchmarks/peers/ppo.py``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import sbx
import torch
from plain_ppo import HAS_COMPILER, PlainPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggPPO

sys.path.insert(0, str(Path(__file__).parents[1]))
import record

SYSTEMS: dict[str, Any] = {
    "sb3": functools.partial(PPO, device="cpu"),
    "sbx": sbx.PPO,
    "plain torch": PlainPPO,
    **({"plain torch, compiled": functools.partial(PlainPPO, compiled=True)} if HAS_COMPILER else {}),
    **{rule: functools.partial(AggPPO, device="cpu", aggregation=rule) for rule in ("mean", "r_weighted", "l_weighted")},
    "sb3 again": functools.partial(PPO, device="cpu"),
}


def timed(name: str, env: str, agents: int, batch_size: int, samples: int) -> tuple[float, float]:
    """Wall and CPU seconds of two rollouts, after one that compiles."""
    model = SYSTEMS[name](
        "MlpPolicy", make_vec_env(env, agents, seed=0), n_steps=samples // agents, batch_size=batch_size, seed=0
    )
    model.learn(samples)
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(2 * samples, reset_num_timesteps=False)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=4096, help="in one rollout, all agents together")
    parser.add_argument("--envs", nargs="+", default=["CartPole-v1", "HalfCheetah-v5"])
    parser.add_argument("--agents", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 512, 4096])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for env, agents, batch_size in itertools.product(options.envs, options.agents, options.batch_sizes):
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in SYSTEMS}
        for _ in range(options.repeats):
            for name in SYSTEMS:
                runs[name].append(timed(name, env, agents, batch_size, options.samples))
        for name in SYSTEMS:
            row: dict[str, Any] = {"environment": env, "agents": agents, "batch_size": batch_size, "system": name}
            row["repeats"] = options.repeats
            for i, clock in enumerate(("wall", "cpu")):
                ratios = [run[i] / reference[i] for run, reference in zip(runs[name], runs["sb3"], strict=True)]
                row[f"{clock}_over_sb3"] = round(statistics.median(ratios), 3)
                row[f"{clock}_min"], row[f"{clock}_max"] = round(min(ratios), 3), round(max(ratios), 3)
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        record.write("peers_ppo", rows, ["rl-agg", "stable-baselines3", "sbx-rl", "jax", "torch", "gymnasium"])


if __name__ == "__main__":
    main()
