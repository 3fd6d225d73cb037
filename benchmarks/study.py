"""What the study engine costs beside a plain loop over the same cells, and what a large report takes."""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from rich.console import Console

from rl_agg.study import Budget, Environment, Study, System, resolve, run_study, write_report
from rl_agg.study.cells import Update, runner_for
from rl_agg.study.engine import ray_session
from rl_agg.study.store import Store

SETTINGS = {"n_steps": 512, "batch_size": 512, "n_epochs": 10}


def main(arguments: list[str]) -> None:
    """Measure and write ``results/study.csv``."""
    parser = argparse.ArgumentParser(prog="run.py study", description=__doc__)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=4, help="of each of two systems")
    parser.add_argument("--updates", type=int, default=60, help="of a cell; about 20 seconds")
    parser.add_argument("--cells", type=int, default=1000, help="of the report")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [*_overhead(options.repeats, options.seeds, options.updates), *_report(options.cells)]
    record.write("study", rows, ["rl-agg", "ray", "plotly", "stable-baselines3"])


def _study(num_seeds: int, updates: int, num_systems: int = 2) -> Study:
    systems = {f"system {number}": System("sb3_agg:AggPPO") for number in range(num_systems)}
    environments = {"CartPole-v1": Environment(num_agents=8, threshold=100, settings=SETTINGS)}
    return resolve(Study("benchmark", "system 0", systems, environments, num_seeds, Budget(updates=updates)))


def _overhead(repeats: int, seeds: int, updates: int) -> list[dict[str, Any]]:
    """Seconds of training in the engine over those in a plain loop, and what the engine takes besides.

    Training is compared on cells of a third of the length, by turns, since over minutes a machine drifts by more than
    the engine costs: each cell's seconds, over the mean of the same cell's in the loops before and after it.
    """
    short, whole = _study(1, updates // 3), _study(seeds, updates)
    training, control = [], []
    with ray_session(1):
        before = _loop(short)
        for _ in range(repeats):
            (_, trained), after = _run(short), _loop(short)
            training += (trained / ((before + after) / 2)).tolist()
            control += (after / before).tolist()
            print(f"engine {trained.round(2)} s, loop {before.round(2)} and {after.round(2)}", flush=True)
            before = after
        seconds, trained = _run(whole)
    besides = seconds - trained.sum()
    share = {"cells": len(whole.cells), "value": round(besides / trained.sum(), 4)}
    return [
        _spread("training, engine over loop", training, len(short.cells)),
        _spread("training, loop over loop", control, len(short.cells)),
        {"figure": "seconds besides training", "cells": len(whole.cells), "value": round(besides, 2)},
        {"figure": "seconds besides training, over training's", **share},
    ]


def _spread(figure: str, values: list[float], num_cells: int) -> dict[str, Any]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    quartiles = {"value": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}
    return {"figure": figure, "cells": num_cells, **quartiles}


def _loop(study: Study) -> np.ndarray:
    """Seconds of each cell ``[cells]``."""
    return np.array([runner_for(cell).run(cell, lambda update, fraction: None)[-1].wall_time for cell in study.cells])


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
    study = _study(num_cells // 10, 200, num_systems=10)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        with store.writing(study):
            for cell in study.cells:
                returns = random.normal(size=200).cumsum()
                updates = [
                    Update(number, 4096 * number, 0.5 * number, value, 9, [value] * 8, {"agg/bytes": 4e6 * number})
                    for number, value in enumerate(returns.tolist(), start=1)
                ]
                store.write(cell, updates)
        start = time.perf_counter()
        write_report(Path(folder))
        seconds = time.perf_counter() - start
        size = (Path(folder) / "report.html").stat().st_size / 1e6
    measured = {"seconds to write a report": seconds, "megabytes of its page": size}
    return [{"figure": name, "cells": num_cells, "value": round(value, 2)} for name, value in measured.items()]
