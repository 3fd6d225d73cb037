"""SBX (SB3 on JAX) against SB3 and AggPPO, wall and CPU time of ``learn()`` after compilation.

Needs ``pip install sbx-rl`` in an environment of its own beside this package; it is no dependency. Prints ratios to SB3,
medians of alternating runs: ``python benchmarks/peers/sbx_ppo.py``.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import sbx
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggPPO

SYSTEMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sb3": (PPO, {"device": "cpu"}),
    "sbx": (sbx.PPO, {}),
    "mean": (AggPPO, {"device": "cpu", "aggregation": "mean"}),
    "r_weighted": (AggPPO, {"device": "cpu", "aggregation": "r_weighted"}),
    "l_weighted": (AggPPO, {"device": "cpu", "aggregation": "l_weighted"}),
    "sb3 again": (PPO, {"device": "cpu"}),
}


def timed(name: str, env: str, batch_size: int) -> tuple[float, float]:
    """Wall and CPU seconds of two rollouts, after one that compiles."""
    cls, settings = SYSTEMS[name]
    model = cls("MlpPolicy", make_vec_env(env, 8, seed=0), n_steps=512, batch_size=batch_size, seed=0, **settings)
    model.learn(4096)
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(8192, reset_num_timesteps=False)
    return time.perf_counter() - wall, time.process_time() - cpu


def main(repeats: int = 5) -> None:
    torch.set_num_threads(1)
    for env in ("CartPole-v1", "HalfCheetah-v5"):
        for batch_size in (64, 512):
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in SYSTEMS}
            for _ in range(repeats):
                for name in SYSTEMS:
                    runs[name].append(timed(name, env, batch_size))
            for name in SYSTEMS:
                wall, cpu = (
                    statistics.median(run[i] / reference[i] for run, reference in zip(runs[name], runs["sb3"], strict=True))
                    for i in (0, 1)
                )
                print(f"{env}, batch {batch_size}, {name}: wall {wall:.3f}, CPU {cpu:.3f} of sb3", flush=True)


if __name__ == "__main__":
    main()
