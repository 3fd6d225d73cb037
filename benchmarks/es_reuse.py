"""Importance-weighted evolution strategies alongside plain ones: how many episodes CartPole takes.

Solved is a mean return of 475 of the unperturbed parameters over five updates; the episodes are those of the agents until
then. ``results/es_reuse.csv`` has one row for each network, step size, population, system and seed, paired by seed.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import record
import torch

from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.population import open_environments
from rl_agg.seeding import stream

SHARED = {"l2_coeff": 0.0, "fitness": "centered"}
SOLVED, WINDOW = 475.0, 5
MOST_EPISODES = 5_000

NETWORKS: dict[str, tuple[int, ...]] = {"linear": (), "8": (8,)}
NOISES = (0.1, 0.3)
STEPS = (0.03,)
POPULATIONS = (10,)
SYSTEMS: dict[str, dict[str, Any]] = {"ES": {}, "IW-ES, 1 earlier": {"reuse": 1}, "IW-ES, 4 earlier": {"reuse": 4}}


def run_trial(settings: EvolutionSettings, hidden: tuple[int, ...], seed: int) -> dict[str, Any]:
    """One seed: the agents' episodes until it is solved."""
    evaluator = PopulationEvaluator(open_environments("CartPole-v1", {}), hidden=hidden)
    agents = EvolutionAgents(evaluator, settings)
    strategy = EvolutionStrategy(evaluator.network.initial(stream("start", seed)), run=seed, settings=settings)
    everyone = np.arange(settings.population + 1)
    returns: list[float] = []
    effective: list[float] = []
    while len(returns) * settings.population < MOST_EPISODES:
        report = agents.run(strategy.broadcast(), everyone)
        strategy.receive(report)
        returns.append(float(report.returns[-1]))
        effective.append(strategy.measures.get("effective_samples", settings.population))
        if np.mean(returns[-WINDOW:]) >= SOLVED and len(returns) >= WINDOW:
            break
    agents.close()
    return {
        "seed": seed,
        "solved": int(np.mean(returns[-WINDOW:]) >= SOLVED),
        "episodes": len(returns) * settings.population,
        "effective_samples_per_update": round(float(np.mean(effective)), 1),
    }


def main(arguments: list[str]) -> None:
    """Run all and write ``results/es_reuse.csv``."""
    parser = argparse.ArgumentParser(prog="run.py es_reuse", description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--name", default="es_reuse", help="of the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    cells = [(network, noise, lr, size) for network in NETWORKS for noise in NOISES for lr in STEPS for size in POPULATIONS]
    for network, noise, lr, population in cells:
        found = {}
        for system, own in SYSTEMS.items():
            settings = EvolutionSettings(population=population, noise_stdev=noise, lr=lr, **SHARED, **own)
            trials = [run_trial(settings, NETWORKS[network], seed) for seed in range(options.seeds)]
            cell = {"network": network, "noise_stdev": noise, "lr": lr, "population": population, "system": system}
            rows += [{**cell, **trial} for trial in trials]
            found[system] = np.array([trial["episodes"] for trial in trials])
            logs = np.log(found[system] / found["ES"])
            print(
                *cell.values(),
                f"solved {sum(trial['solved'] for trial in trials)}, episodes {found[system].mean():.0f}, ratio to ES "
                f"{np.exp(logs.mean()):.2f} times or by {np.exp(1.96 * logs.std(ddof=1) / np.sqrt(len(logs))):.2f}",
                flush=True,
            )
            record.write(options.name, rows, ["rl-agg", "numpy", "gymnasium"])
