"""Studies that take seconds to run, and records that need no run."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.analysis.results import Results, results_of
from rl_agg.study.analysis.store import Store
from rl_agg.study.report.writing import write_report
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.study import Budget, Environment, Study, System
from tests.study.returns import keep

NASTY = "</script><img src=x onerror=\"alert('1')\">@DATA@ %{y} $x$"
LINE = '<b>"Line" & @VERDICT@</b>'


@pytest.fixture
def tiny() -> Callable[..., Study]:
    """``tiny(**changes)``: two systems on CartPole, a fraction of a second for each cell."""

    def make(**changes: Any) -> Study:
        settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 2}
        parts: dict[str, Any] = {
            "name": "tiny",
            "baseline": "stock",
            "systems": {
                "stock": System("stable_baselines3:PPO"),
                "loss": System("sb3_agg:AggPPO", {"aggregation": "l_weighted"}),
            },
            "environments": {"CartPole-v1": Environment(num_agents=4, threshold=30, settings=settings)},
            "seeds": 2,
            "budget": Budget(updates=3),
        }
        return resolve(Study(**(parts | changes)))

    return make


@pytest.fixture
def updates_of() -> Callable[..., list[CellUpdate]]:
    """``updates_of(returns)``: a record with these returns, 100 steps and half a second for each update."""

    def make(returns: list[float], num_agents: int = 2, **scalars: float) -> list[CellUpdate]:
        scalars = {"agg/weight_max": 1.0} | {f"agg/{name}": value for name, value in scalars.items()}
        return [
            CellUpdate(number, 100 * number, 0.5 * number, value, 0 if math.isnan(value) else 3, [value] * num_agents, scalars)
            for number, value in enumerate(returns, start=1)
        ]

    return make


@pytest.fixture
def results(tmp_path: Path, tiny: Callable[..., Study], updates_of: Callable[..., list[CellUpdate]]) -> Callable[..., Results]:
    """``results(records, **changes)``: of a study whose cells returned what ``records[system][environment]`` says, by seed."""

    def make(records: dict[str, dict[str, list[Any]]], **changes: Any) -> Results:
        names = {name for environments in records.values() for name in environments}
        seeds = max(len(runs) for environments in records.values() for runs in environments.values())
        environments = {name: Environment(id="CartPole-v1", threshold=10) for name in sorted(names)}
        study = tiny(**({"environments": environments, "seeds": seeds, "budget": Budget(updates=4)} | changes))
        store = Store(tmp_path / "out")
        with store.writing(study):
            for cell in study.cells:
                runs = records.get(cell.system_name, {}).get(cell.environment_name, [])
                if cell.seed < len(runs):
                    run = runs[cell.seed]
                    keep(store, cell, updates_of(run) if isinstance(run[0], float) else run)
        return results_of(store)

    return make


@pytest.fixture(scope="session")
def names() -> dict[str, str]:
    """A system's name and an environment's that would break a page which does not escape them."""
    return {"system": NASTY, "environment": LINE}


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report: hostile names, runs of 900 updates, a system that records no bytes and one that failed."""
    systems = {
        "stock": System("stable_baselines3:PPO"),
        NASTY: System("sb3_agg:AggPPO"),
        "_thrifty": System("sb3_agg:AggPPO", {"aggregation": "sum"}),
        "broken": System("x:Y"),
    }
    environments = {name: Environment(id="CartPole-v1", threshold=400.0) for name in (LINE, "Pole")}
    study = resolve(Study("A & B <study> @TITLE@", "stock", systems, environments, seeds=2, budget=Budget(updates=900)))
    store = Store(tmp_path_factory.mktemp("hostile"))
    with store.writing(study):
        for cell in study.cells:
            if cell.system_name == "broken":
                store.write_failure(cell, "Traceback (most recent call last):\nValueError: <b>no</b>\n")
                continue
            ahead = {"stock": 0, NASTY: 50, "_thrifty": 100}[cell.system_name]
            updates = [
                CellUpdate(n, 100 * n, 0.5 * n, float("nan") if n == 1 else n - 2.0 + cell.seed + ahead, 3, [1.0, 1.0])
                for n in range(1, 901)
            ]
            if cell.system_name != "stock":
                size = 10 if cell.system_name == NASTY else 1
                updates = [
                    dataclasses.replace(
                        update, scalars={"agg/messages": update.update, "agg/bytes": size * update.update, "agg/win_rate": 0.5}
                    )
                    for update in updates
                ]
            keep(store, cell, updates, ["mind the <gap>"])
    write_report(str(store.directory))
    return store.directory
