"""QMIX of EPyMARL alongside this package's, each with its own settings, on level-based foraging: greedy returns and speed.

EPyMARL's main program runs from a checkout, in an environment of its own (it imports SMAClite, also where that is not
used). Its agents are recurrent, as ours, and all else is its ``qmix.yaml``. Ours is ``QMIXConfig()`` as it comes. Both are
evaluated every ``--every`` env steps on as many greedy episodes. One thread each; seconds are CPU time of a whole run,
evaluations included. Finished runs are kept in ``--folder`` and not run again. Writes ``results/qmix_epymarl.csv``:
``python benchmarks/peers/qmix_epymarl.py --epymarl CHECKOUT --python PATH_OF_ITS_PYTHON --folder runs/epymarl``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import record

TASK, LIMIT, EPISODES = "Foraging-8x8-2p-2f-coop-v3", 50, 64
Curve = list[tuple[int, float]]
"""Env steps and mean greedy returns."""


def epymarl(seed: int, options: argparse.Namespace) -> tuple[Curve, float]:
    """Train theirs, and read what it has logged."""
    logs = options.epymarl / "results" / "sacred"
    known, before = set(logs.rglob("info.json")), resource.getrusage(resource.RUSAGE_CHILDREN)
    settings = {
        "env_args.key": f"lbforaging:{TASK}",
        "env_args.time_limit": LIMIT,
        "use_rnn": True,
        "use_cuda": False,
        "seed": seed,
        "t_max": options.steps,
        "test_interval": options.every,
        "test_nepisode": EPISODES,
    }
    command = [options.python, "src/main.py", "--config=qmix", "--env-config=gymma", "with"]
    command += [f"{name}={value}" for name, value in settings.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=options.epymarl, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (info,) = set(logs.rglob("info.json")) - known
    logged = json.loads(info.read_text())
    values = [value["value"] if isinstance(value, dict) else value for value in logged["test_return_mean"]]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return list(zip(logged["test_return_mean_T"], values, strict=True)), seconds


def ours(seed: int, options: argparse.Namespace) -> tuple[Curve, float]:
    """Train ours."""
    import torch

    from rllib_agg import QMIXConfig

    torch.set_num_threads(1)
    config = QMIXConfig().environment(f"lbf/{TASK}").debugging(seed=seed).evaluation(evaluation_duration=EPISODES)
    algorithm, curve, steps, start = config.build_algo(), [], 0, time.process_time()
    while steps < options.steps:
        steps = int(algorithm.train()["num_env_steps_sampled_lifetime"])
        if steps // options.every > len(curve):
            curve.append((steps, float(algorithm.evaluate()["env_runners"]["episode_return_mean"])))
    seconds = time.process_time() - start
    algorithm.stop()
    return curve, seconds


def main() -> None:
    """Train in turns, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epymarl", type=Path, required=True, help="a checkout")
    parser.add_argument("--python", required=True, help="a Python that has what it needs")
    parser.add_argument("--folder", type=Path, required=True, help="for its results and finished runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--every", type=int, default=20_000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for name, train in (("EPyMARL", epymarl), ("QMIXConfig", ours)):
            finished = options.folder / f"{name}_{seed}.json"
            if not finished.exists():
                curve, seconds = train(seed, options)
                finished.write_text(json.dumps({"curve": curve, "seconds": seconds}))
            run = json.loads(finished.read_text())
            rate = round(run["curve"][-1][0] / run["seconds"])
            for steps, value in run["curve"]:
                row = {"task": TASK, "system": name, "seed": seed, "env_steps": steps, "return": round(value, 4)}
                rows.append({**row, "steps_per_second": rate})
            print(f"{name}, seed {seed}: {run['curve'][-1][1]:.3f} at the end, {rate} steps/s", flush=True)
        record.write("qmix_epymarl", rows, ["rl-agg", "ray", "torch", "lbforaging", "numpy"])


if __name__ == "__main__":
    main()
