"""What it costs to see agents' gradients one by one, or to give each agent its own parameters, alongside stock PPO.

Measured as in ``sb3``. ``matrix_mib`` is the size of the agents' gradients ``[A, P]``, ``peak_mib`` the largest resident
memory of a process that runs the system alone.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import record
import torch
from sb3 import measure, options_of, timed
from stable_baselines3 import PPO

from sb3_agg import AggPPO

SETTINGS: dict[str, dict[str, Any]] = {
    "mean": {},
    **{rule: {"aggregation": rule} for rule in ("e_weighted", "agreement", "snr_weighted", "equal_norms", "guarded")},
    "median": {"aggregation": "median"},
    "trimmed_mean": {"aggregation": "trimmed_mean"},
    "krum": {"aggregation": "krum"},
    "geometric_median": {"aggregation": "geometric_median"},
    "mixtailor": {"aggregation": "mixtailor"},
    "mean, lag": {"aggregation": "mean", "communication": "lag"},
    "fedavg": {"aggregation": "fedavg"},
    "fedprox": {"aggregation": "fedprox"},
    "actor_sum": {"aggregation": "actor_sum"},
    "actor_mean": {"aggregation": "actor_mean"},
}


def main(arguments: list[str]) -> None:
    """Measure and write ``results/local.csv`` and ``results/local_memory.csv``."""
    parser = argparse.ArgumentParser(prog="run.py local", description=__doc__)
    parser.add_argument("--systems", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="alongside stock PPO")
    options = options_of(parser, arguments, agents=[8, 64])
    systems: dict[str, Callable[..., PPO]] = {
        "stock": PPO,
        **{name: functools.partial(AggPPO, **settings) for name, settings in SETTINGS.items() if name in options.systems},
        "stock again": PPO,
    }
    _write_memory(options.agents, options.samples)
    measure("local", systems, options)


def _write_memory(agents: list[int], samples: int) -> None:
    rows = []
    for num_agents in agents:
        for name, settings in {"stock": None, **SETTINGS}.items():
            # a process of its own, for a peak is never forgotten
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                num_parameters, peak = process.submit(_memory, settings, num_agents, samples).result()
            matrix = num_agents * num_parameters * 4 / 2**20
            row = {"environment": "CartPole-v1", "agents": num_agents, "system": name, "parameters": num_parameters}
            rows.append({**row, "matrix_mib": round(matrix, 2), "peak_mib": round(peak, 1)})
    record.write("local_memory", rows, ["rl-agg", "stable-baselines3", "torch"])


def _memory(settings: dict[str, Any] | None, num_agents: int, samples: int) -> tuple[int, float]:
    """Trained parameters, and the peak of resident memory in MiB."""
    torch.set_num_threads(1)
    build = PPO if settings is None else functools.partial(AggPPO, **settings)
    timed(build, "CartPole-v1", num_agents, 64, samples)
    policy = PPO("MlpPolicy", "CartPole-v1", device="cpu").policy
    return sum(parameter.numel() for parameter in policy.parameters()), resource.getrusage(
        resource.RUSAGE_SELF
    ).ru_maxrss / 1024
