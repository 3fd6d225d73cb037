"""Records that come from other machines of a Ray cluster: they are sent to the one that holds the folder."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_agg.study.errors import StudyError
from rl_agg.study.run.store import Store
from rl_agg.study.spec.study import Cell

SECONDS_TO_ANSWER = 10.0


def join_cluster(address: str) -> None:
    """Connect this process to a Ray cluster.

    :param address: ``host:port`` of its head, or ``"auto"`` for the one that this machine is part of.
    :raises StudyError: if there is none.
    """
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise StudyError(f"no Ray cluster at {address!r}: {error}") from error


class Records(Protocol):
    """Where a cell's outcome goes; a :class:`~rl_agg.study.run.store.Store` is one."""

    def keep(self, cell: Cell, record: bytes) -> None:
        """Keep a finished cell's record."""

    def write_failure(self, cell: Cell, text: str) -> None:
        """Keep what a cell failed with."""

    def clear_failure(self, cell: Cell) -> None:
        """Forget a failure before the cell is tried again."""


class SentRecords:
    """Sends each outcome to a process on this machine, which writes it to the folder.

    :param directory: The study's folder.
    """

    def __init__(self, directory: Path) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._writer: Any = ray.remote(Store).options(num_cpus=0, scheduling_strategy=here).remote(directory)

    def keep(self, cell: Cell, record: bytes) -> None:
        """Come back when it is written."""
        ray.get(self._writer.keep.remote(cell, record))

    def write_failure(self, cell: Cell, text: str) -> None:
        """Come back when it is written."""
        ray.get(self._writer.write_failure.remote(cell, text))

    def clear_failure(self, cell: Cell) -> None:
        """Come back when it is gone."""
        ray.get(self._writer.clear_failure.remote(cell))
