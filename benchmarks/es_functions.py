"""Gates on functions of 50 parameters, smooth, noisy or sparse: how near they come to the optimum, with how many messages.

The return falls with the root mean square distance from the optimum: smoothly, with Gaussian noise of its own each time,
or in five steps, between which all agents return the same. Trials are paired: the same start, and the same noise.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import record
from numpy.typing import NDArray

from rl_agg.evolution import EvolutionStrategy

NUM_PARAMETERS = 50
STEPS = (1.02, 0.9, 0.7, 0.5, 0.3)
SYSTEMS: dict[str, dict[str, Any]] = {
    "ES n50": {},
    "ES n25": {"population": 25},
    "ES n10": {"population": 10},
    "random m25": {"communication": "random", "expected_messages": 25},
    "random m10": {"communication": "random", "expected_messages": 10},
    "deviation m25": {"communication": "deviation", "expected_messages": 25},
    "deviation m10": {"communication": "deviation", "expected_messages": 10},
    "ESPC m25": {"communication": "espc", "expected_messages": 25},
}
"""All with centred returns."""

LANDSCAPES = {"smooth": (False, 0.0), "noisy": (False, 0.3), "very noisy": (False, 3.0), "sparse": (True, 0.0)}
"""Whether in steps, and the standard deviation of the noise on returns."""


def returns(candidates: NDArray[np.float32], stepped: bool) -> NDArray[np.float64]:
    """Positive, so that ESPC is not at a disadvantage; the optimum is at 1 in every direction."""
    distance = np.sqrt(np.square(candidates - 1.0).mean(axis=1, dtype=np.float64))
    return sum((distance < step).astype(np.float64) for step in STEPS) if stepped else 20.0 - 10.0 * distance


def run_trial(settings: dict[str, Any], landscape: str, trial: int, updates: int) -> tuple[float, float, float]:
    """Mean distance of the server over the updates, messages per update, and those in updates 2 to 11."""
    stepped, noise = LANDSCAPES[landscape]
    generator = np.random.default_rng(trial)
    shared = {"population": 50, "antithetic": False, "noise_stdev": 0.1, "lr": 0.05, "l2_coeff": 0.0, **settings}
    strategy = EvolutionStrategy(0.3 * generator.standard_normal(NUM_PARAMETERS), run=trial, **shared)
    distances, messages = [], []
    for _ in range(updates):
        before = strategy.ledger.messages
        candidates = strategy.ask()
        strategy.tell(returns(candidates, stepped) + noise * generator.standard_normal(50)[: len(candidates)])
        distances.append(float(np.sqrt(np.square(strategy.theta - 1.0).mean())))
        messages.append(strategy.ledger.messages - before)
    return float(np.mean(distances)), float(np.mean(messages)), float(np.mean(messages[1:11]))


def main(arguments: list[str]) -> None:
    """Run all and write ``results/es_functions.csv``."""
    parser = argparse.ArgumentParser(prog="run.py es_functions", description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--updates", type=int, default=150)
    options = parser.parse_args(arguments)
    rows = []
    for landscape in LANDSCAPES:
        for system, settings in SYSTEMS.items():
            found = np.array([run_trial(settings, landscape, trial, options.updates) for trial in range(options.trials)])
            row = {
                "landscape": landscape,
                "system": system,
                "trials": options.trials,
                "updates": options.updates,
                "mean_distance": round(float(found[:, 0].mean()), 3),
                "half_interval": round(float(1.96 * found[:, 0].std(ddof=1) / np.sqrt(options.trials)), 3),
                "messages": round(float(found[:, 1].mean()), 1),
                "messages_updates_2_to_11": round(float(found[:, 2].mean()), 1),
            }
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            rows.append(row)
    record.write("es_functions", rows, ["rl-agg", "numpy"])
