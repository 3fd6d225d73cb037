"""Studies that take seconds to run, records that need no run, and one Ray for all tests."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rl_agg.study.cells import Update
from rl_agg.study.engine import ray_session
from rl_agg.study.loading import resolve
from rl_agg.study.spec import Budget, Environment, Study, System

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_running() -> Iterator[None]:
    sys.path.insert(0, str(Path(__file__).parent))  # workers get it from here, and with it failing_systems.py
    with ray_session(2):
        yield
    sys.path.remove(str(Path(__file__).parent))


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
def updates_of() -> Callable[..., list[Update]]:
    """``updates_of(returns)``: a record with these returns, 100 steps and half a second for each update."""

    def make(returns: list[float], num_agents: int = 2) -> list[Update]:
        return [
            Update(number, 100 * number, 0.5 * number, value, 3, [value] * num_agents, {"agg/weight_max": 1.0})
            for number, value in enumerate(returns, start=1)
        ]

    return make
