"""Evolution strategies and their gates on CartPole: paired trials of the report's settings, many at once in one process.

Trial t of every system has the same initial parameters, and agent i of update k the same noise and the same episode. Finished
parts are kept in ``--parts``, so that a run that was killed goes on; ``results/es_cartpole.csv`` has one row for each system,
``results/es_cartpole_curves.csv`` one for each system and update, and ``results/es_cartpole_*.png`` show both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, Outcomes, PopulationEvaluator
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.population import open_environments
from rl_agg.seeding import stream

FAITHFUL = {"population": 50, "noise_stdev": 0.05, "lr": 0.01, "l2_coeff": 0.05, "fitness": "raw", "antithetic": False}
CENTERED = {"fitness": "centered"}


def _gated(name: str, m: int, **settings: Any) -> dict[str, Any]:
    return {"communication": name, "expected_messages": m, "communication_kwargs": settings}


SYSTEMS: dict[str, dict[str, Any]] = {
    "ES n50 raw": {},
    "ES n25 raw": {"population": 25},
    "ESPC m25 k5": _gated("espc", 25, window=5),
    "random m25 raw": _gated("random", 25),
    "ES n50 centered": CENTERED,
    "ES n25 centered": {"population": 25, **CENTERED},
    "ES n10 centered": {"population": 10, **CENTERED},
    "ES n5 centered": {"population": 5, **CENTERED},
    "ES n50 antithetic raw": {"antithetic": True},
    "ES n50 antithetic ranks": {"antithetic": True, "fitness": "ranks"},
    "ESPC m25 k5 centered": {**_gated("espc", 25, window=5), **CENTERED},
    "ESPC m25 k5, F - 500": {**_gated("espc", 25, window=5), "offset": -500.0},
    "ESPC m25 k5, F + 500": {**_gated("espc", 25, window=5), "offset": 500.0},
    "deviation m25": {**_gated("deviation", 25), **CENTERED},
    "deviation m10": {**_gated("deviation", 10), **CENTERED},
    "deviation m5": {**_gated("deviation", 5), **CENTERED},
    "deviation m25, F - 500": {**_gated("deviation", 25), **CENTERED, "offset": -500.0},
    "deviation m25, F + 500": {**_gated("deviation", 25), **CENTERED, "offset": 500.0},
}
"""What differs from :data:`FAITHFUL`; ``offset`` is added to every return that an agent knows."""

DRAWN = (
    "ES n50 raw",
    "ES n25 raw",
    "ESPC m25 k5",
    "ES n50 centered",
    "ES n25 centered",
    "deviation m25",
    "deviation m10",
)
"""Whose curves are shown."""

COLUMNS = ("agents", "server", "messages")
"""Per update: mean return of the agents, return of the server, messages."""


def run_trials(
    settings: dict[str, Any], activation: str, trials: range, updates: int, *, explore: bool = False
) -> NDArray[np.float32]:
    """Run trials side by side.

    :return: ``[trials, updates, 3]``, see :data:`COLUMNS`.
    """
    chosen = {**FAITHFUL, **settings}
    offset = chosen.pop("offset", 0.0)
    shared = EvolutionSettings(**chosen)
    evaluator = PopulationEvaluator(open_environments("CartPole-v1", {}), hidden=(8, 8), activation=activation)
    agents = EvolutionAgents(evaluator, shared, explore=explore)
    strategies = [
        EvolutionStrategy(evaluator.network.initial(stream("start", trial)), run=trial, settings=shared) for trial in trials
    ]
    everyone = np.arange(shared.population + 1)
    curves = np.empty((len(trials), updates, len(COLUMNS)), dtype=np.float32)
    for update in range(updates):
        tried = [agents.prepare(strategy.broadcast(), everyone) for strategy in strategies]
        outcomes = evaluator(
            np.concatenate([trial.parameters for trial in tried]),
            np.concatenate([trial.seeds for trial in tried]),
            samplers=[sampler for trial in tried for sampler in trial.samplers or []] or None,
        )
        for row, (strategy, trial) in enumerate(zip(strategies, tried, strict=True)):
            part = slice(row * everyone.size, (row + 1) * everyone.size)
            own = Outcomes(
                outcomes.returns[part], outcomes.discounted[part] + offset, outcomes.lengths[part], outcomes.statistics[part]
            )
            before = strategy.ledger.messages
            strategy.receive(agents.report(trial, own))
            curves[row, update] = own.returns[:-1].mean(), own.returns[-1], strategy.ledger.messages - before
    agents.close()
    return curves


def summary(system: str, activation: str, curves: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, Any]:
    """One system, with its paired difference from plain ES with as many agents; intervals of 95 %."""
    area, plain = curves[:, :, 0].mean(axis=1), reference[: len(curves), :, 0].mean(axis=1)
    difference = area - plain[: len(area)]
    half = 1.96 / np.sqrt(max(1, len(area)))
    spread = {"ddof": min(1, len(area) - 1)}
    return {
        "system": system,
        "activation": activation,
        "trials": len(area),
        "updates": curves.shape[1],
        "mean_return": round(float(area.mean()), 1),
        "mean_return_half_interval": round(float(half * area.std(**spread)), 1),
        "minus_es_n50_raw": round(float(difference.mean()), 1),
        "minus_es_n50_raw_half_interval": round(float(half * difference.std(**spread)), 1),
        "last_20_updates": round(float(curves[:, -20:, 0].mean()), 1),
        "server_last_20_updates": round(float(curves[:, -20:, 1].mean()), 1),
        "trials_with_server_at_450": round(float((curves[:, -20:, 1].mean(axis=1) >= 450).mean()), 3),
        "dead_starts": round(float((area < 15).mean()), 3),
        "messages": round(float(curves[:, :, 2].mean()), 2),
        "messages_updates_2_to_11": round(float(curves[:, 1:11, 2].mean()), 2),
    }


def curve_rows(system: str, activation: str, curves: NDArray[np.float32]) -> list[dict[str, Any]]:
    """One row for each update: means and percentiles over trials."""
    low, high = np.percentile(curves[:, :, 0], (10, 90), axis=0)
    means = curves.mean(axis=0)
    return [
        {
            "system": system,
            "activation": activation,
            "update": update + 1,
            "mean_return": round(float(means[update, 0]), 2),
            "return_p10": round(float(low[update]), 2),
            "return_p90": round(float(high[update]), 2),
            "server_return": round(float(means[update, 1]), 2),
            "messages": round(float(means[update, 2]), 2),
        }
        for update in range(curves.shape[1])
    ]


def draw(rows: list[dict[str, Any]], curves: list[dict[str, Any]], activation: str, path: Path) -> None:
    """Draw the curves of :data:`DRAWN`, and every system's return over its messages."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    over_updates, over_messages = figure.subplots(1, 2)
    for system in DRAWN:
        own = [row for row in curves if (row["system"], row["activation"]) == (system, activation)]
        if own:
            over_updates.plot([row["update"] for row in own], [row["mean_return"] for row in own], label=system)
    over_updates.set(xlabel="Update", ylabel="Mean return of the agents", title=f"CartPole, {activation}")
    over_updates.legend(fontsize="small")
    shown = [row for row in rows if row["activation"] == activation and "F " not in row["system"]]
    for number, row in enumerate(sorted(shown, key=lambda row: (round(row["messages"] / 5), row["mean_return"]))):
        place, half = (row["messages"], row["mean_return"]), row["mean_return_half_interval"]
        over_messages.errorbar([place[0]], [place[1]], yerr=[half], fmt="o", markersize=4, capsize=2)
        side = {"xytext": (6, 2), "ha": "left"} if number % 2 else {"xytext": (-6, 2), "ha": "right"}  # not one on the other
        over_messages.annotate(row["system"], place, textcoords="offset points", fontsize=7, **side)
    over_messages.set(xlabel="Messages in an update", title="Mean over all updates, 95 % intervals", xlim=(-8, 68))
    figure.savefig(path, dpi=150)


def collect(options: argparse.Namespace, system: str, activation: str) -> NDArray[np.float32]:
    """Run what is not there yet of one system."""
    parts = []
    for start in range(0, options.trials, options.at_once):
        trials = range(start, min(start + options.at_once, options.trials))
        name = system.replace(" ", "_").replace(",", "")
        path = options.parts / f"{name}-{activation}-{options.updates}-{trials.start}-{trials.stop}.npy"
        if not path.exists():
            began = time.perf_counter()
            curves = run_trials(SYSTEMS[system], activation, trials, options.updates)
            unfinished = path.with_suffix(".part.npy")
            np.save(unfinished, curves)
            unfinished.rename(path)
            print(
                f"{system}, {activation}, trials {trials.start} to {trials.stop - 1}: mean return "
                f"{curves[:, :, 0].mean():.1f}, {curves[:, :, 2].mean():.1f} messages, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
        parts.append(np.load(path))
    return np.concatenate(parts)


def main(arguments: list[str]) -> None:
    """Run all systems and write both tables."""
    parser = argparse.ArgumentParser(prog="run.py es_cartpole", description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20, help="trials run side by side, and kept as one part")
    parser.add_argument("--activations", nargs="+", default=["relu", "tanh"])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--parts", type=Path, default=Path("runs/es_cartpole"))
    parser.add_argument("--name", default="es_cartpole", help="of the tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.parts.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for activation in options.activations:
        reference = collect(options, "ES n50 raw", activation)
        for system in options.systems:
            found = collect(options, system, activation)
            rows.append(summary(system, activation, found, reference))
            curves += curve_rows(system, activation, found)
            record.write(options.name, rows, ["rl-agg", "numpy", "gymnasium"])
            record.write(f"{options.name}_curves", curves, ["rl-agg"])
        draw(rows, curves, activation, record.RESULTS / f"{options.name}_{activation}.png")
