"""Records that come from other machines of a Ray cluster: they are sent to the one that holds the folder."""

from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_agg.study.analysis.store import Store
from rl_agg.study.spec.study import Cell


class SentRecords:
    """Sends what a :class:`~rl_agg.study.analysis.store.Store` would write to a process on this machine, which writes it.

    Each call returns once it is written.

    :param directory: The study's folder.
    """

    def __init__(self, directory: Path) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._writer: Any = ray.remote(Store).options(num_cpus=0, scheduling_strategy=here).remote(directory)

    def keep(self, cell: Cell, record: bytes) -> None:
        """Send a finished cell's record."""
        ray.get(self._writer.keep.remote(cell, record))

    def write_failure(self, cell: Cell, text: str) -> None:
        """Send the traceback of a cell that failed."""
        ray.get(self._writer.write_failure.remote(cell, text))

    def clear_failure(self, cell: Cell) -> None:
        """Have the traceback deleted."""
        ray.get(self._writer.clear_failure.remote(cell))


Records = Store | SentRecords
"""Where a cell's outcome goes."""
