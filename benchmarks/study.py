"""What the study engine costs beside a plain loop over the same cells, and what a large report takes."""

from __future__ import annotations

import argparse
import io
import statistics
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
    parser.add_argument("--repeats", type=int, default=3)
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
    """Seconds of the engine, one cell at a time, beside those of the loops before and after it; Ray runs already."""
    study = _study(seeds, updates)
    measured: dict[str, list[float]] = {
        "engine over loop": [],
        "training, engine over loop": [],
        "seconds besides training": [],
    }
    control = []
    with ray_session(1):
        before = _loop(study)
        for _ in range(repeats):
            (seconds, trained), after = _run(study), _loop(study)
            loop = (before + after) / 2
            for figures, value in zip(measured.values(), (seconds / loop, trained / loop, seconds - trained), strict=True):
                figures.append(value)
            control.append(after / before)
            before = after
            print(f"engine {seconds:.1f} s, {trained:.1f} of it training; loop {loop:.1f}; {control[-1]:.3f}", flush=True)
    common = {"cells": len(study.cells), "control": round(statistics.median(control), 3)}
    return [
        {
            "figure": name,
            "value": round(statistics.median(values), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
            **common,
        }
        for name, values in measured.items()
    ]


def _loop(study: Study) -> float:
    start = time.perf_counter()
    for cell in study.cells:
        runner_for(cell).run(cell, lambda update, fraction: None)
    return time.perf_counter() - start


def _run(study: Study) -> tuple[float, float]:
    """Seconds of the whole, and of its cells' training."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        assert not run_study(study, Path(folder), workers=1, console=Console(file=io.StringIO()))
        seconds = time.perf_counter() - start
        records = [Store(Path(folder)).read(cell) for cell in study.cells]
        return seconds, sum(record.updates["wall_time"].iloc[-1] for record in records if record is not None)


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
    empty = {"low": "", "high": "", "cells": num_cells, "control": ""}
    return [{"figure": name, "value": round(value, 2), **empty} for name, value in measured.items()]
