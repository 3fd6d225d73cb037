"""A system whose cells wait, once trained, until plain processes have trained them too."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Client, Listener
from typing import Any, Self

import torch

from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.study import Cell
from sb3_agg import AggPPO

ADDRESS = "TURNS_ADDRESS"  # in the environment, which Ray's workers inherit


class AggPPOByTurns(AggPPO):
    """Gives the turn to those who train the same cell outside Ray, so that all of them meet the same weather."""

    def learn(self, *arguments: Any, **settings: Any) -> Self:
        """Train, then wait for the others."""
        super().learn(*arguments, **settings)
        with Client(os.environ[ADDRESS]) as turn:
            turn.send(self.seed)
            turn.recv()
        return self


@contextmanager
def others(cells: Sequence[Cell], how_many: int) -> Iterator[dict[int, list[float]]]:
    """Train cells in plain processes, one after the other, each time an :class:`AggPPOByTurns` gives the turn.

    :param cells: Each with a seed of its own; what the others train.
    :return: By seed, the others' seconds ``[how_many]``; complete when the study is.
    """
    by_seed = {cell.seed: cell for cell in cells}
    seconds: dict[int, list[float]] = {}
    pools = [ProcessPoolExecutor(1, mp_context=get_context("spawn")) for _ in range(how_many)]

    def serve(listener: Listener) -> None:
        with listener:  # closed also if a cell fails here: who waits for a turn then fails too
            for _ in cells:
                with listener.accept() as turn:
                    seed = turn.recv()
                    seconds[seed] = [pool.submit(seconds_of, by_seed[seed]).result() for pool in pools]
                    turn.send("done")

    with Listener() as listener:
        os.environ[ADDRESS] = str(listener.address)
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            yield seconds
        finally:
            del os.environ[ADDRESS]
            for pool in pools:
                pool.shutdown()


def seconds_of(cell: Cell) -> float:
    """Train a cell in this process, and say how long it took."""
    torch.set_num_threads(1)
    return runner_for(cell).run(cell, lambda update, fraction: None)[-1].wall_time
