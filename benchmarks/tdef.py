"""TD-EF alongside uncompressed TD: the error of the values over updates and bits, on the grids, of the uniform random policy.

The exact values solve the linear system of the environment's model. Trials are paired: the same episodes in every system,
since agents act by the policy. ``results/tdef.csv`` has a row for each grid, system and checkpoint.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import record
import torch
from numpy.typing import NDArray

from rl_agg.population import open_environments
from rl_agg.tabular import TabularEpisodes, TdefAgents, TdefLearner, TdefSettings, model_of

GRIDS = ("rl_agg/SimpleGrid-v0", "rl_agg/WindyGrid-v0", "rl_agg/FrozenLake5x5-v0")
GAMMA = 0.9
POPULATION = 5


def _top(number: int, feedback: str | bool = "classic") -> dict[str, Any]:
    return {"compression": "top_k", "compression_kwargs": {"number": number, "error_feedback": feedback}}


SYSTEMS: dict[str, dict[str, Any]] = {
    "uncompressed": {"compression": "identity"},
    "top 1": _top(1),
    "top 1, EF21": _top(1, "ef21"),
    "top 1, no feedback": _top(1, False),
    "random 1": {"compression": "random_k", "compression_kwargs": {"number": 1}},
    "sign": {"compression": "sign"},
    "sign, no feedback": {"compression": "sign", "compression_kwargs": {"error_feedback": False}},
    "quantize, 1 level": {"compression": "quantize", "compression_kwargs": {"levels": 1}},
    "ternary": {"compression": "ternary"},
}
CHECKPOINTS = (100, 300, 1000, 3000)
NEAR = 0.1
"""Relative error whose first update, and the bits until then, are reported."""


def exact_values(environments: Any) -> NDArray[np.float64]:
    """Of the uniform random policy."""
    model = model_of(environments)
    rewards, transitions = model.rewards.mean(axis=1), model.transitions.mean(axis=1)
    return np.linalg.solve(np.eye(len(rewards)) - GAMMA * transitions, rewards)


class SharedEpisodes(TabularEpisodes):
    """Runs the episodes of an update once: agents act by the policy, whatever was learned."""

    _seeds: NDArray[np.int64] | None = None

    def __call__(self, table: Any, seeds: NDArray[np.int64], *rest: Any) -> Any:
        """The last ones, if they are of the same seeds."""
        if self._seeds is None or not np.array_equal(seeds, self._seeds):
            self._seeds, self._ran = seeds, super().__call__(table, seeds, *rest)
        return self._ran


Curves = dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]
"""By system: relative error, and bytes that all agents have sent, after each update ``[updates]``."""


def run_trial(grid: str, systems: dict[str, TdefSettings], trial: int, updates: int) -> Curves:
    """Learn from the same episodes in every system."""
    episodes = SharedEpisodes(open_environments(grid, {}), gamma=GAMMA)
    exact = exact_values(episodes.environments)
    agents = {system: TdefAgents(episodes, settings) for system, settings in systems.items()}
    servers = {
        system: TdefLearner(own.features, own.policy, episodes.shape[1], gamma=GAMMA, run=trial, settings=systems[system])
        for system, own in agents.items()
    }
    curves = {system: (np.empty(updates), np.empty(updates, dtype=np.int64)) for system in systems}
    everyone = np.arange(POPULATION)
    for update in range(updates):
        for system, (errors, sent) in curves.items():
            server = servers[system]
            server.receive(agents[system].run(server.broadcast(), everyone))
            errors[update] = np.linalg.norm(server.values - exact) / np.linalg.norm(exact)
            sent[update] = server.ledger.bytes
    return curves


def rows_of(grid: str, system: str, errors: NDArray[np.float64], sent: NDArray[np.int64], lr: float) -> list[dict[str, Any]]:
    """One row for each checkpoint: means over trials, with half of the 95 % interval."""
    near = [int(np.argmax(each <= NEAR)) if (each <= NEAR).any() else -1 for each in errors]
    reached = [index for index in near if index >= 0]
    return [
        {
            "grid": grid.split("/")[1],
            "system": system,
            "lr": lr,
            "trials": len(errors),
            "update": update,
            "relative_error": round(float(errors[:, update - 1].mean()), 4),
            "half_interval": round(float(1.96 * errors[:, update - 1].std(ddof=1) / np.sqrt(len(errors))), 4),
            "kilobits_sent": round(float(sent[:, update - 1].mean()) * 8 / 1000, 1),
            "trials_at_0.1": len(reached),
            "updates_to_0.1": round(float(np.mean(reached)) + 1, 1) if len(reached) == len(errors) else "",
            "kilobits_to_0.1": round(float(np.mean([sent[row, near[row]] for row in range(len(errors))])) * 8 / 1000, 1)
            if len(reached) == len(errors)
            else "",
        }
        for update in CHECKPOINTS
        if update <= errors.shape[1]
    ]


def main(arguments: list[str]) -> None:
    """Run all and write ``results/tdef.csv``."""
    parser = argparse.ArgumentParser(prog="run.py tdef", description=__doc__)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=2.0)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--name", default="tdef", help="of the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    systems = {name: TdefSettings(population=POPULATION, lr=options.lr, **SYSTEMS[name]) for name in options.systems}
    for grid in GRIDS:
        found = [run_trial(grid, systems, trial, options.updates) for trial in range(options.trials)]
        for system in systems:
            errors, sent = (np.array([curves[system][part] for curves in found]) for part in (0, 1))
            rows += rows_of(grid, system, errors, sent, options.lr)
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        record.write(options.name, rows, ["rl-agg", "numpy", "gymnasium"])
