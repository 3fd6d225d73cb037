"""How teams learn: ``QMIXConfig`` with one change after another, greedy win rates or returns over env steps.

- ``default``: as it comes.
- The others change one setting each (see ``CHANGES``), for the table of what each is for.

Every run is evaluated on 64 greedy episodes each ``--every`` env steps, on one torch thread. Finished runs are kept in
``--folder`` and not run again. ``python benchmarks/run.py qmix_learning --tasks smax/3m --steps 300000 --seeds 3``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import record
import torch

from rllib_agg import QMIXConfig

EPISODES = 64
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "VDN": {"mixer": "vdn"},
    "a network each": {"parameter_sharing": "none"},
    "epsilon over 100k": {"epsilon": [[0, 1.0], [100_000, 0.05]]},
    "lambda 0": {"td_lambda": 0.0},
    "lr 5e-4": {"lr": 5e-4},
    "batch 32": {"train_batch_size_per_learner": 32},
    "an update for 8 episodes": {"updates_per_episode": 0.125},
    "rewards as they are": {"reward_normalization": None},
    "rewards standardised": {"reward_normalization": "standardize"},
    "states as they are": {"normalize_states": False},
    "no average": {"average_decay": None},
    "full mixer": {"model_config": {"mixer_init_scale": 1.0}},
}
"""Settings by the name of the change."""


def train(task: str, change: str, seed: int, steps: int, every: int) -> dict[str, Any]:
    """Train, and return the curve ``[[env steps, return, win rate or None], ...]`` and the CPU seconds it took."""
    settings = dict(CHANGES[change])
    config = QMIXConfig().environment(task).evaluation(evaluation_duration=EPISODES).debugging(seed=seed)
    config.rl_module(model_config=settings.pop("model_config", {}))
    start, played, curve = time.process_time(), 0, []
    algorithm = config.training(**settings).build_algo()
    while played < steps:
        played = int(algorithm.train()["num_env_steps_sampled_lifetime"])
        if played // every > len(curve):
            reached = algorithm.evaluate()["env_runners"]
            curve.append([played, float(reached["episode_return_mean"]), reached.get("win_rate")])
    algorithm.stop()
    return {"curve": curve, "seconds": time.process_time() - start}


def main(arguments: list[str]) -> None:
    """Train what is missing and write ``results/qmix_learning.csv``, all that the folder has."""
    parser = argparse.ArgumentParser(prog="run.py qmix_learning", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["smax/3m", "lbf/Foraging-8x8-2p-2f-coop-v3"])
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(6)))
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--every", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/qmix_learning"), help="for finished runs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for task in options.tasks:
            for change in options.changes:
                run = {"task": task, "change": change, "seed": seed}
                finished = options.folder / f"{task.replace('/', '_')}-{change.replace(' ', '_')}-{seed}.json"
                if not finished.exists():
                    run |= train(task, change, seed, options.steps, options.every)
                    finished.write_text(json.dumps(run))
                    print(f"{task}, {change}, seed {seed}: {run['curve'][-1]}, {run['seconds']:.0f} s", flush=True)
    rows = []
    for path in sorted(options.folder.glob("*.json")):
        run = json.loads(path.read_text())
        for steps, reached, wins in run["curve"]:
            row = {name: run[name] for name in ("task", "change", "seed")} | {"env_steps": steps}
            rate = "" if wins is None else round(wins, 4)
            rows.append(row | {"return": round(reached, 4), "win_rate": rate, "seconds": round(run["seconds"])})
    record.write("qmix_learning", rows, ["rl-agg", "ray", "torch", "jax", "jaxmarl", "lbforaging", "numpy"])
