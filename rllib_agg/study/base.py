"""What the runners of RLlib's algorithms share: checking a config, and one update after the other."""

from __future__ import annotations

import dataclasses
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

import torch

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.run.cells import building
from rl_agg.study.run.runners import OnUpdate
from rl_agg.study.spec.study import Cell

STEPS = "num_env_steps_sampled_lifetime"


@dataclass(frozen=True, slots=True)
class Observed:
    """The part of a :class:`~rl_agg.study.analysis.records.CellUpdate` that depends on the algorithm."""

    env_steps: int
    mean_return: float
    episodes: int
    agent_returns: list[float]
    scalars: dict[str, float]


Observer = Callable[[Any, Mapping[str, Any]], Observed | None]
"""Reads the algorithm and the result of its ``train()``; ``None`` if the update is not complete."""


def agg_scalars(result: Mapping[str, Any]) -> dict[str, float]:
    """What modules log about aggregation, by name."""
    return {
        f"agg/{name}": float(value)
        for module in result.get("learners", {}).values()
        if isinstance(module, Mapping)
        for name, value in module.get("agg", {}).items()
        if isinstance(value, SupportsFloat)
    }


class AlgorithmRunner(ABC):
    """Runs an algorithm in the cell's own process; see :class:`~rl_agg.study.run.runners.Runner`."""

    packages = ("ray", "mujoco", "box2d")

    @abstractmethod
    def check_keys(self, cell: Cell) -> None:
        """Raise on settings that do not exist here."""

    @abstractmethod
    def config(self, cell: Cell) -> Any:
        """The algorithm's config."""

    @abstractmethod
    def observer(self, cell: Cell) -> Observer:
        """What reads each update of a run."""

    def check(self, cell: Cell) -> None:
        """Raise :class:`~rl_agg.study.errors.StudyError`, naming the system, the environment and the reason, on settings that
        cannot be used.
        """
        self.check_keys(cell)
        with building(cell):
            self.validate(self.config(cell))

    def validate(self, config: Any) -> None:
        """Raise if an algorithm could not be built."""
        config.validate()

    def run(self, cell: Cell, on_update: OnUpdate) -> list[CellUpdate]:
        """Train for the cell's budget."""
        torch.set_num_threads(1)
        algorithm, observe, updates = self.config(cell).build_algo(), self.observer(cell), list[CellUpdate]()
        start, fraction = time.perf_counter(), 0.0
        try:
            while fraction < 1:
                observed = observe(algorithm, algorithm.train())
                if observed is None:
                    continue
                seconds = time.perf_counter() - start
                update = CellUpdate(update=len(updates) + 1, wall_time=seconds, **dataclasses.asdict(observed))
                fraction = cell.budget.used(update.update, update.env_steps, update.wall_time)
                updates.append(update)
                on_update(update, fraction)
        finally:
            algorithm.stop()
            shutil.rmtree(algorithm.logdir, ignore_errors=True)  # an empty folder in the user's home for each cell
        return updates
