"""What the study engine costs alongside a plain loop over the same cells, and what a large report takes."""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import turns
from rich.console import Console

from rl_agg.study import Budget, Environment, Study, System, resolve, run_study, write_report
from rl_agg.study.analysis.records import CellUpdate, encoded
from rl_agg.study.analysis.store import Store
from rl_agg.study.run.provenance import provenance

SYSTEM = "sb3_agg:AggPPO"
SETTINGS = {"n_steps": 512, "batch_size": 512, "n_epochs": 10}


def main(arguments: list[str]) -> None:
    """Measure and write ``results/study.csv``."""
    parser = argparse.ArgumentParser(prog="run.py study", description=__doc__)
    parser.add_argument(
        "--turns", type=int, default=16, help="cells trained in the engine and alongside it, four seconds each"
    )
    parser.add_argument("--seeds", type=int, default=16, help="of a study as it is; 20 seconds each")
    parser.add_argument("--cells", type=int, default=1000, help="of the report")
    options = parser.parse_args(arguments)
    rows = [*_training(options.turns, updates=12), *_besides(options.seeds, updates=60), *_report(options.cells)]
    record.write("study", rows, ["rl-agg", "ray", "stable-baselines3"])


def _study(system: str, num_seeds: int, updates: int, num_systems: int = 1) -> Study:
    systems = {f"system {number}": System(system) for number in range(num_systems)}
    environments = {"CartPole-v1": Environment(num_agents=8, threshold=100, settings=SETTINGS)}
    return resolve(Study("benchmark", "system 0", systems, environments, num_seeds, Budget(updates=updates)))


def _training(seeds: int, updates: int) -> list[dict[str, Any]]:
    """Seconds of each cell's training in the engine, over those of a plain process that trains it right after."""
    plain = _study(SYSTEM, seeds, updates)
    with turns.others(plain.cells, 2) as others:
        _, in_engine = _run(_study("turns:AggPPOByTurns", seeds, updates))
    first, second = np.array([others[cell.seed] for cell in plain.cells]).T
    return [
        _spread("training, engine over loop", in_engine / first),
        _spread("training, loop over loop", second / first),
    ]


def _spread(figure: str, values: np.ndarray) -> dict[str, Any]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    quartiles = {"value": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}
    return {"figure": figure, "cells": len(values), **quartiles}


def _besides(seeds: int, updates: int) -> list[dict[str, Any]]:
    """Seconds of a study that none of its cells was training in, from the start of Ray to its end."""
    seconds, trained = _run(_study(SYSTEM, seeds, updates))
    besides = seconds - trained.sum()
    measured = {"seconds besides training": besides, "seconds besides training, over training's": besides / trained.sum()}
    return [{"figure": name, "cells": len(trained), "value": round(value, 4)} for name, value in measured.items()]


def _run(study: Study) -> tuple[float, np.ndarray]:
    """Seconds of the whole, and of each cell's training ``[cells]``."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        assert not run_study(study, Path(folder), workers=1, console=Console(file=io.StringIO()))
        seconds = time.perf_counter() - start
        records = [Store(Path(folder)).read(cell) for cell in study.cells]
        return seconds, np.array([record.updates["wall_time"].iloc[-1] for record in records if record is not None])


def _report(num_cells: int) -> list[dict[str, Any]]:
    """Seconds and megabytes of a report over many cells of 200 updates."""
    study = _study(SYSTEM, num_cells // 10, 200, num_systems=10)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        with store.writing(study):
            for cell in study.cells:
                returns = random.normal(size=200).cumsum()
                updates = [
                    CellUpdate(number, 4096 * number, 0.5 * number, value, 9, [value] * 8, {"agg/bytes": 4e6 * number})
                    for number, value in enumerate(returns.tolist(), start=1)
                ]
                store.keep(cell, encoded(cell, updates, provenance()))
        start = time.perf_counter()
        write_report(Path(folder))
        seconds = time.perf_counter() - start
        size = (Path(folder) / "report.html").stat().st_size / 1e6
    measured = {"seconds to write a report": seconds, "megabytes of its page": size}
    return [{"figure": name, "cells": num_cells, "value": round(value, 2)} for name, value in measured.items()]
