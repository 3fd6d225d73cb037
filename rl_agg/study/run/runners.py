"""The interface of a host to the study, and how a system finds the runner of its class.

A package registers a runner by an entry point of the group :data:`~rl_agg.study.spec.systems.RUNNERS`. Its name is the class
that the runner can run, subclasses included, as ``module.Class``; its value is the runner, as ``module:Class``::

    [project.entry-points."rl_agg.study.runners"]
    "my_trainer.Trainer" = "my_trainer.study:Runner"
"""

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Protocol

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.errors import StudyError
from rl_agg.study.run.cells import import_system
from rl_agg.study.spec.study import Cell
from rl_agg.study.spec.systems import RUNNERS

OnUpdate = Callable[[CellUpdate, float], None]
"""Called after each update with it and the fraction of the budget that is used up, in [0, 1]."""


class Runner(Protocol):
    """How one framework runs a cell. Constructed without arguments."""

    packages: Sequence[str]
    """Distributions whose versions a record names, where they are installed."""

    def check(self, cell: Cell) -> None:
        """Raise if a cell cannot start.

        :raises StudyError: naming the system, the environment and the reason.
        """

    def bundles(self, cell: Cell) -> list[dict[str, float]]:
        """Resources for Ray: those of the cell's own process, then those of each worker that it starts."""

    def run(self, cell: Cell, on_update: OnUpdate) -> list[CellUpdate]:
        """Train, on one thread, with all randomness from the cell's seed."""


def runner_for(cell: Cell) -> Runner:
    """Load the runner of a cell's system: of its class, or else of the nearest ancestor that has one.

    Neither the other runners nor their frameworks are imported.

    :raises StudyError: if the import path is wrong, or no runner is registered for the class.
    """
    cls = import_system(cell)
    registered = {each.name: each for each in entry_points(group=RUNNERS)}
    for ancestor in cls.__mro__:
        found = registered.get(f"{ancestor.__module__}.{ancestor.__qualname__}")
        if found is not None:
            runner: Runner = found.load()()
            return runner
    path = cell.system.system
    if hasattr(cls, "build_algo"):
        raise StudyError(f"system {cell.system_name!r}: {path} is a config; write {path.removesuffix('Config')}")
    choices = ", ".join(sorted(registered)) or "nothing: no package registers a runner, so reinstall rl-agg"
    raise StudyError(f"system {cell.system_name!r}: no runner is registered for {path}; choose a subclass of {choices}")
