"""Running a study's unfinished cells, each as one Ray Tune trial."""

import logging
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune import PlacementGroupFactory
from rich.console import Console

import rl_agg
from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import StudyError
from rl_agg.study.run.cells import extend_path
from rl_agg.study.run.checking import Bundles, check_each_combination, cpus
from rl_agg.study.run.cluster import Records, SentRecords
from rl_agg.study.run.progress import StudyProgress
from rl_agg.study.run.session import ray_session
from rl_agg.study.run.stopping import termination_as_interrupt
from rl_agg.study.run.training import train
from rl_agg.study.spec.study import Cell, Study
from rl_agg.study.terminal import counted, say

SECONDS_BETWEEN_REPORTS = 0.5


def run_study(
    study: Study,
    directory: str | Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    console: Console | None = None,
    on_cell_over: Callable[[], None] | None = None,
) -> list[Cell]:
    """Run the cells that are not finished yet.

    :param study: Resolved, see :func:`~rl_agg.study.spec.loading.load_study`.
    :param directory: Where its records are and go.
    :param workers: How many cells at a time, one CPU each unless they start workers of their own; ``None`` means as many as
        there are CPUs.
    :param address: Of a Ray cluster to run on, ``"auto"`` for the one this machine is part of; ``None`` means this machine.
    :param retry_failed: Run cells again that failed before.
    :param console: Where to show progress; ``None`` means standard output.
    :param on_cell_over: Called before the first cell, and when one has finished or failed; training goes on meanwhile.
    :return: The cells that failed; their tracebacks are in ``failures/``.
    :raises StudyError: if a cell cannot start, ``workers`` is below 1, the folder holds another study or is in use, or there
        is no cluster.
    """
    if workers is not None and workers < 1:
        raise StudyError(f"workers must be at least 1, got {workers}")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # our own progress reports failed cells
    store, console = Store(directory), console or Console()
    missing = [cell for cell in study.cells if store.read(cell) is None]
    if len(missing) < len(study.cells):
        say(console, f"{len(study.cells) - len(missing)} of {len(study.cells)} cells are already finished")
    # Before the folder is locked and claimed: a study that cannot start must leave it to its corrected version
    if missing:
        say(console, f"Checking the settings of {counted(len(missing), 'cell')} …")
    bundles_of = check_each_combination(missing, console)
    with store.writing(study):
        missing = [cell for cell in missing if store.read(cell) is None]
        given_up = set() if retry_failed else {cell for cell in missing if store.failure(cell) is not None}
        if given_up:
            say(console, f"{len(given_up)} cells failed before; --retry-failed runs them again")
        todo = [cell for cell in missing if cell not in given_up]
        if todo:
            if workers is None and address is None:
                workers = _num_cpus()
            bundles = [bundles_of[cell.system_name, cell.environment_name] for cell in todo]
            say(console, "Starting Ray …" if address is None else f"Joining the Ray cluster at {address} …")
            with (
                ray_session(max(min(workers or 1, len(todo)), *map(cpus, bundles)), address) as is_local,
                StudyProgress(console, todo, len(study.cells) - len(missing)) as progress,
                termination_as_interrupt(),  # in here, as Ray sets a handler of its own
            ):
                records = store if is_local else SentRecords(store.directory)  # machines may join at any time
                say(console, f"Training {counted(len(todo), 'cell')}; the first ones load their framework …")
                on_cell_over = on_cell_over or (lambda: None)
                on_cell_over()
                _run_cells(todo, bundles, store, records, workers, progress, on_cell_over)
    return [cell for cell in missing if store.read(cell) is None]


def _num_cpus() -> int:
    """CPUs that this process may use, where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_cells(
    cells: Sequence[Cell],
    bundles: Sequence[Bundles],
    store: Store,
    records: Records,
    workers: int | None,
    progress: StudyProgress,
    on_cell_over: Callable[[], None],
) -> None:
    folders = list(sys.path)
    registered: bytes = cloudpickle.dumps(rl_agg.registered())  # type: ignore[no-untyped-call]

    def run_trial(config: dict[str, Any]) -> None:
        extend_path(folders)
        rl_agg.register_all(cloudpickle.loads(registered))  # loads where the user's modules can be imported by now
        run_cell(cells[config["cell"]], records)

    def resources(config: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory(bundles[config["cell"]])

    with tempfile.TemporaryDirectory(prefix="rl-agg-tune-") as scratch:
        analysis = tune.run(  # not a Tuner, which pickles its callbacks, and ours holds a terminal
            tune.with_resources(run_trial, resources),
            config={"cell": tune.grid_search(list(range(len(cells))))},
            max_concurrent_trials=workers,
            reuse_actors=True,  # saves each cell importing torch again
            callbacks=[_Watch(cells, progress, on_cell_over)],
            raise_on_failed_trial=False,
            max_failures=1,  # a worker that was killed; what a cell raises is in its record of failure
            storage_path=scratch,
            verbose=0,
        )
        for trial in analysis.trials:  # in here, as Tune keeps the errors in its storage
            cell, error = cells[trial.config["cell"]], trial.get_error()
            if error is not None and store.read(cell) is None and store.failure(cell) is None:
                _keep_failure(store, cell, str(error))  # the worker died before it could


def run_cell(cell: Cell, records: Records) -> None:
    """Run one cell inside a trial: write its record, or its traceback if it fails."""
    last = -SECONDS_BETWEEN_REPORTS

    def report(update: CellUpdate, fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_REPORTS or fraction >= 1:
            last = time.monotonic()
            value = math.inf if update.is_infinite else update.mean_return
            tune.report({"fraction": fraction, "return": value, "seconds": update.wall_time})

    try:
        records.clear_failure(cell)
        records.keep(cell, train(cell, report))
    except Exception as error:  # any failure of a cell is its own; the others continue
        _keep_failure(records, cell, traceback.format_exc())
        tune.report({"failed": f"{type(error).__name__}: {error}"})


def _keep_failure(records: Records, cell: Cell, text: str) -> None:
    with suppress(OSError):  # the disk may be what failed; that the cell has no record is reported anyway
        records.write_failure(cell, text)


class _Watch(tune.Callback):
    """Passes what the trials report to Tune on to the progress."""

    def __init__(self, cells: Sequence[Cell], progress: StudyProgress, on_cell_over: Callable[[], None]) -> None:
        self._cells = cells
        self._progress = progress
        self._on_cell_over = on_cell_over
        self._failed: dict[str, str] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "failed" in result:
            self._failed[trial.trial_id] = result["failed"]
        elif "fraction" in result:
            self._progress.updated(self._cell(trial), result["fraction"], result["return"], result["seconds"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if trial.trial_id in self._failed:
            self._progress.failed(self._cell(trial), self._failed[trial.trial_id])
        else:
            self._progress.finished(self._cell(trial))
        self._on_cell_over()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._progress.failed(self._cell(trial), "its worker process died")
        self._on_cell_over()

    def _cell(self, trial: Any) -> Cell:
        index: int = trial.config["cell"]
        return self._cells[index]
