"""Search for novelty on a maze that misleads: in how many seeds, and when, the unperturbed parameters reach the goal.

A run ends there. ``results/es_novelty.csv`` has one row for each system and seed, paired by seed: the same initial parameters.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import record
import torch

from rl_agg.envs.maze import MAX_EPISODE_STEPS
from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.population import open_environments
from rl_agg.seeding import stream

MAZE = "rl_agg/DeceptiveMaze-v0"
HIDDEN = (8,)
SHARED = {"population": 20, "noise_stdev": 0.3, "lr": 0.05, "l2_coeff": 0.0, "fitness": "ranks"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "ES": {},
    "NS-ES": {"novelty": "ns"},
    "NSR-ES": {"novelty": "nsr"},
    "NSRA-ES": {"novelty": "nsra", "novelty_kwargs": {"patience": 10}},
}


def run_trial(settings: EvolutionSettings, seed: int, updates: int) -> dict[str, Any]:
    """One seed: when the goal was reached first."""
    evaluator = PopulationEvaluator(open_environments(MAZE, {}), hidden=HIDDEN)
    agents = EvolutionAgents(evaluator, settings)
    strategy = EvolutionStrategy(evaluator.network.initial(stream("start", seed)), run=seed, settings=settings)
    everyone = np.arange(settings.population + 1)
    by_agent, returns, reached = None, [], False
    while len(returns) < updates and not reached:
        report = agents.run(strategy.broadcast(), everyone)
        strategy.receive(report)
        at_goal = report.lengths < MAX_EPISODE_STEPS
        returns.append(float(report.returns[-1]))
        reached = bool(at_goal[-1])
        if by_agent is None and at_goal.any():
            by_agent = len(returns)
    agents.close()
    return {
        "seed": seed,
        "reached": int(reached),
        "updates": len(returns),
        "first_update_of_an_agent_at_the_goal": by_agent or "",
        "best_return": round(max(returns), 1),
        "last_return": round(returns[-1], 1),
        "return_weight": round(strategy.measures.get("return_weight", 1.0), 2),
        "archive_bytes": int(strategy.measures.get("archive_bytes", 0)),
    }


def main(arguments: list[str]) -> None:
    """Run all and write ``results/es_novelty.csv``."""
    parser = argparse.ArgumentParser(prog="run.py es_novelty", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=700, help="at most")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--name", default="es_novelty", help="of the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for system in options.systems:
        settings = EvolutionSettings(**{**SHARED, **SYSTEMS[system]})
        for seed in range(options.seeds):
            rows.append({"system": system, **run_trial(settings, seed, options.updates)})
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            record.write(options.name, rows, ["rl-agg", "numpy", "gymnasium"])
