"""Running a study's unfinished cells, each as one Ray Tune trial on one CPU."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

# Ray reads these when it is imported. Set by hand, they stay as they are
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about GPUs that no cell uses
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables cannot be switched off, the old reporter can
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a study mean the user's folder
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records are written by the workers
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C stops at once; finished cells are kept anyway
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune import PlacementGroupFactory  # noqa: E402

from rl_agg.study.errors import StudyError  # noqa: E402
from rl_agg.study.run.cells import Update, find_modules_in, runner_for  # noqa: E402
from rl_agg.study.run.cluster import Records, SentRecords, join_cluster  # noqa: E402
from rl_agg.study.run.progress import StudyProgress  # noqa: E402
from rl_agg.study.run.provenance import provenance  # noqa: E402
from rl_agg.study.run.stopping import termination_as_interrupt  # noqa: E402
from rl_agg.study.run.store import Store, encoded  # noqa: E402
from rl_agg.study.spec.study import Cell, Study  # noqa: E402

SECONDS_BETWEEN_REPORTS = 0.5
LEAST_USED = 0.95
"""Of its budget, by a run that nothing is amiss with."""
OBJECT_STORE_BYTES = 100 * 2**20  # cells send numbers, not arrays; Ray would take 30 % of the memory


def run_study(
    study: Study,
    directory: Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    console: Console | None = None,
) -> list[Cell]:
    """Run what is not finished yet. Killed and called again, it goes on; called twice at once, it refuses.

    :param study: Resolved, see :func:`~rl_agg.study.spec.loading.load_study`.
    :param directory: Where its records are and go.
    :param workers: How many cells at a time, one CPU each unless they start workers of their own; ``None`` means as many as
        there are CPUs.
    :param address: Of a Ray cluster to run on, ``"auto"`` for the one this machine is part of; ``None`` means this machine.
    :param retry_failed: Run cells again that failed before.
    :param console: Where to show progress; ``None`` means standard output.
    :return: The cells that failed; their tracebacks are in ``failures/``.
    :raises StudyError: if a cell cannot start, ``workers`` is below 1, the folder holds another study or is in use, or there
        is no cluster.
    """
    if workers is not None and workers < 1:
        raise StudyError(f"workers must be at least 1, got {workers}")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed cells are told by our own progress
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)  # news of its versions, for each system
    store, console = Store(directory), console or Console()
    missing = [cell for cell in study.cells if store.read(cell) is None]
    # Before the folder is taken: a study that cannot start must not keep out its corrected self
    needs = _check_each_combination(missing)
    with store.writing(study):
        missing = [cell for cell in missing if store.read(cell) is None]
        given_up = set() if retry_failed else {cell for cell in missing if store.failure(cell) is not None}
        if given_up:
            console.print(f"{len(given_up)} cells failed before; --retry-failed runs them again", highlight=False)
        todo = [cell for cell in missing if cell not in given_up]
        finished = len(study.cells) - len(missing)
        with StudyProgress(console, len(study.cells) - len(given_up), finished) as progress:
            if todo:
                if workers is None and address is None:
                    workers = _num_cpus()
                bundles = [needs[cell.system_name, cell.environment_name] for cell in todo]
                with ray_session(max(min(workers or 1, len(todo)), *map(_cpus, bundles)), address) as is_ours:
                    records = store if is_ours else SentRecords(directory.absolute())  # machines may join at any time
                    with termination_as_interrupt():  # in here, as Ray sets a handler of its own
                        _run_cells(todo, bundles, store, records, workers, progress)
    return [cell for cell in missing if store.read(cell) is None]


def _num_cpus() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Bundles = list[dict[str, float]]


def _check_each_combination(cells: Sequence[Cell]) -> dict[tuple[str, str], Bundles]:
    """One seed of each is enough: a bad setting is told before anything runs.

    :return: What cells of each system and environment take.
    """
    needs = {}
    for cell in {(cell.system_name, cell.environment_name): cell for cell in reversed(cells)}.values():
        runner = runner_for(cell)
        runner.check(cell)
        needs[cell.system_name, cell.environment_name] = runner.bundles(cell)
    return needs


def _cpus(bundles: Bundles) -> int:
    return math.ceil(sum(bundle.get("CPU", 0.0) for bundle in bundles))


_runs_our_own = False
"""Whether the Ray that runs in this process was started by :func:`ray_session`."""


@contextmanager
def ray_session(num_cpus: int, address: str | None = None) -> Iterator[bool]:
    """Start a Ray of our own, quiet and without traces; one that runs in this process already is used instead.

    :param num_cpus: How many it is to think it has.
    :param address: Join the cluster there instead.
    :return: Whether it is one of our own, on this machine alone.
    :raises StudyError: if there is none.
    """
    global _runs_our_own
    if ray.is_initialized():
        yield _runs_our_own
        return
    if address is not None:
        try:
            join_cluster(address)
            yield False
        finally:
            ray.shutdown()
        return
    # Not the user's TMPDIR: Ray puts sockets there, whose paths must be shorter than 108 characters
    scratch = tempfile.mkdtemp(prefix="rl-agg-", dir="/tmp")
    try:
        with warnings.catch_warnings():
            # JAX's, where a check has loaded it: what Ray forks turns into another program at once
            warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
            ray.init(
                address="local",  # never somebody else's cluster
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=scratch,
            )
        _runs_our_own = True
        yield True
    finally:
        _runs_our_own = False
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _run_cells(
    cells: Sequence[Cell],
    bundles: Sequence[Bundles],
    store: Store,
    records: Records,
    workers: int | None,
    progress: StudyProgress,
) -> None:
    folders = list(sys.path)

    def run_trial(config: dict[str, Any]) -> None:
        find_modules_in(folders)
        run_cell(cells[config["cell"]], records)

    def resources(config: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory(bundles[config["cell"]])

    with tempfile.TemporaryDirectory(prefix="rl-agg-tune-") as scratch:
        analysis = tune.run(  # not a Tuner, which pickles its callbacks, and ours holds a terminal
            tune.with_resources(run_trial, resources),
            config={"cell": tune.grid_search(list(range(len(cells))))},
            max_concurrent_trials=workers,
            reuse_actors=True,  # saves each cell importing torch again
            callbacks=[_Watch(cells, progress)],
            raise_on_failed_trial=False,
            storage_path=scratch,
            verbose=0,
        )
        for trial in analysis.trials:  # in here, as Tune keeps the errors in its storage
            cell, error = cells[trial.config["cell"]], trial.get_error()
            if error is not None and store.read(cell) is None and store.failure(cell) is None:
                _keep_failure(store, cell, str(error))  # the worker died before it could


def run_cell(cell: Cell, records: Records) -> None:
    """Run one cell inside a trial: write its record, or its traceback if it fails."""
    provenance()  # of what runs here, whatever is committed meanwhile
    last = -SECONDS_BETWEEN_REPORTS

    def report(update: Update, fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_REPORTS or fraction >= 1:
            last = time.monotonic()
            tune.report({"fraction": fraction, "return": update.mean_return})

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            records.clear_failure(cell)
            updates = runner_for(cell).run(cell, report)
            if not updates:
                raise StudyError(f"{cell.system.system} ended without a single update")
            used = cell.budget.used(len(updates), updates[-1].env_steps, updates[-1].wall_time)
            if used < LEAST_USED:
                warnings.warn(f"it ended by itself after {100 * used:.0f} % of its budget", stacklevel=1)
            said = dict.fromkeys(str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
            records.keep(cell, encoded(cell, updates, list(said)))
        except Exception as error:  # any failure of a cell is its own; the others go on
            _keep_failure(records, cell, traceback.format_exc())
            tune.report({"failed": f"{type(error).__name__}: {error}"})


def _keep_failure(records: Records, cell: Cell, text: str) -> None:
    with suppress(OSError):  # what failed may be the disk; that the cell has no record is told anyway
        records.write_failure(cell, text)


class _Watch(tune.Callback):
    """Passes on to the progress what Tune hears from the trials."""

    def __init__(self, cells: Sequence[Cell], progress: StudyProgress) -> None:
        self._cells = cells
        self._progress = progress
        self._failed: dict[str, str] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "failed" in result:
            self._failed[trial.trial_id] = result["failed"]
        elif "fraction" in result:
            self._progress.updated(self._cell(trial), result["fraction"], result["return"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if trial.trial_id in self._failed:
            self._progress.failed(self._cell(trial), self._failed[trial.trial_id])
        else:
            self._progress.finished(self._cell(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._progress.failed(self._cell(trial), "its worker process died")

    def _cell(self, trial: Any) -> Cell:
        index: int = trial.config["cell"]
        return self._cells[index]
