"""Running studies: nothing twice, failures apart, and a killed study continued to the same records."""

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import StudyError
from rl_agg.study.run import engine, training
from rl_agg.study.run.engine import run_study
from rl_agg.study.run.stopping import termination_as_interrupt
from rl_agg.study.spec.study import Budget, System

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def run(tmp_path):
    """``run(study)`` in one folder: the failed cells, and what was shown. One worker, for each imports torch anew."""

    def run_(study, workers=1, **options):
        shown = io.StringIO()
        failed = run_study(study, tmp_path / "out", workers=workers, **options, console=Console(file=shown, width=200))
        return failed, shown.getvalue()

    run_.store = Store(tmp_path / "out")
    return run_


def records_of(store, study):
    """Every cell's rows without the wall time, which no two runs share."""
    return {str(cell): store.read(cell).updates.drop(columns="wall_time") for cell in study.cells}


def assert_same(records, others):
    assert records.keys() == others.keys()
    for name, updates in records.items():
        pd.testing.assert_frame_equal(updates, others[name], check_exact=True, obj=name)


def files_of(store):
    return {file.name: file.stat().st_mtime_ns for file in (store.directory / "cells").glob("*.parquet")}


@pytest.mark.remote
def test_finished_cells_are_not_run_again_and_damaged_ones_are(run, tiny, tmp_path):
    study = tiny(seeds=1)
    finished = []  # what a page written at each moment would show
    failed, shown = run(study, workers=2, on_cell_over=lambda: finished.append(len(files_of(run.store))))
    assert not failed
    assert (finished[0], finished[-1], len(finished)) == (0, 2, 3)
    assert sorted(path.name for path in run.store.directory.iterdir()) == [".lock", "cells", "study.yaml"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    before, records = files_of(run.store), records_of(run.store, study)
    assert len(before) == 2
    assert "[1/2]" in shown
    assert "[2/2]" in shown

    failed, shown = run(study)
    assert not failed
    assert "2 of 2 cells are already finished" in shown
    assert files_of(run.store) == before

    damaged = run.store.directory / "cells" / f"{study.cells[1].id}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    run(study)
    after = files_of(run.store)
    assert {name for name in before if before[name] != after[name]} == {damaged.name}
    assert_same(records_of(run.store, study), records)


@pytest.mark.remote
def test_failing_cells_are_recorded_and_the_others_finish(run, tiny):
    systems = {name: System(f"failing_systems:{name}") for name in ("RaisesInTraining", "NeverTrains", "EndsEarly")}
    study = tiny(systems={"stock": System("stable_baselines3:PPO"), **systems}, seeds=1)
    stock, raises, never, early = study.cells
    failed, shown = run(study)
    assert set(failed) == {raises, never}
    assert "FAILED RaisesInTraining on CartPole-v1, seed 0: RuntimeError: the update went wrong" in shown
    reason = "StudyError: failing_systems:NeverTrains ended without a single update"
    assert f"FAILED NeverTrains on CartPole-v1, seed 0: {reason}" in shown
    text = run.store.failure(raises)
    assert text.startswith("Traceback")
    assert "in train" in text
    assert text.rstrip().endswith("RuntimeError: the update went wrong")
    assert run.store.failure(never).rstrip().endswith(reason.removeprefix("StudyError"))
    assert not run.store.read(stock).metadata["warnings"]
    assert run.store.read(early).metadata["warnings"] == ["it ended by itself after 33 % of its budget"]
    again, shown = run(study)
    assert set(again) == set(failed)
    assert "2 cells failed before; --retry-failed runs them again" in shown
    assert "FAILED" not in shown  # they were not tried
    again, shown = run(study, retry_failed=True)
    assert set(again) == set(failed)
    assert "FAILED RaisesInTraining on CartPole-v1, seed 0: RuntimeError" in shown


def test_a_study_that_cannot_start_starts_nothing(run, tiny):
    systems = {"stock": System("stable_baselines3:PPO"), "off": System("sb3_contrib:ARS")}
    with pytest.raises(StudyError, match="ARS has neither rollouts nor a replay buffer"):
        run(tiny(systems=systems))
    assert not run.store.directory.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_study_continues_to_the_same_records(run, tiny, tmp_path, monkeypatch, kills):
    study = tiny(budget=Budget(updates=10), seeds=kills + 1)
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(study.to_mapping()))
    command = [
        sys.executable,
        "-m",
        "rl_agg.study.cli",
        "compare",
        str(spec),
        "--out",
        str(run.store.directory),
        "--workers",
        "1",
    ]
    moments, survivors = np.random.default_rng().uniform(size=kills), {}
    for kill, moment in enumerate(moments):
        # The first of several kills is before any cell is finished, or soon after; the others within a later cell
        num_cells = len(survivors) + 1 if kill or kills == 1 else 0
        with killed(command) as process:
            wait_for_cells(process, run.store, num_cells)
            time.sleep(moment * seconds_of_a_cell(run.store, study))
        kept = files_of(run.store)
        assert len(kept) < len(study.cells), "killed too late to be a test"
        assert {name: kept[name] for name in survivors} == survivors, "a finished cell was run again"
        survivors = kept
    assert not run(study)[0]
    resumed = files_of(run.store)
    assert {name: resumed[name] for name in survivors} == survivors, "a finished cell was run again"
    monkeypatch.setattr(engine.tune, "report", lambda result: None)
    undisturbed = Store(tmp_path / "undisturbed")
    with undisturbed.writing(study):
        for cell in study.cells:
            engine.run_cell(cell, undisturbed)
    assert_same(records_of(run.store, study), records_of(undisturbed, study))


def test_termination_is_an_interrupt():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), termination_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_study_that_is_terminated_ends_as_by_ctrl_c(run, tiny, tmp_path):
    study = tiny(systems={"stock": System("stable_baselines3:PPO")}, seeds=1000)
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(study.to_mapping()))
    folder = str(run.store.directory)
    command = [sys.executable, "-m", "rl_agg.study.cli", "compare", str(spec), "--out", folder, "--workers", "1"]
    with killed(command) as process:
        wait_for_cells(process, run.store, 1)
        process.terminate()
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "rl-agg: stopped; the same command continues with what is not finished" in shown
    assert not (run.store.directory / "failures").exists()


@contextmanager
def killed(command):
    """A command that is killed at the end of the block."""
    # A session of its own, so that its Ray is not the one these tests share
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_cells(process, store, num_cells):
    """Until a study has begun and has so many finished cells."""
    deadline = time.monotonic() + 300
    while len(files_of(store)) < num_cells or not store.directory.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def seconds_of_a_cell(store, study):
    """The shortest cell's, or one second where none is finished."""
    runs = [record for cell in study.cells if (record := store.read(cell)) is not None]
    return min((record.updates["wall_time"].iloc[-1] for record in runs), default=1.0)


def test_a_record_names_the_code_that_its_run_began_with(tmp_path, tiny, monkeypatch):
    calls = []

    class Runner:
        packages = ("ray",)

        def run(self, cell, on_update):
            calls.append("run")
            raise RuntimeError

    monkeypatch.setattr(training, "provenance", lambda packages: calls.append("provenance"))
    monkeypatch.setattr(training, "runner_for", lambda cell: Runner())
    monkeypatch.setattr(engine.tune, "report", lambda result: None)
    store = Store(tmp_path)
    with store.writing(tiny(seeds=1)):
        engine.run_cell(tiny(seeds=1).cells[0], store)
    assert calls == ["provenance", "run"]


def test_workers_where_the_system_does_not_tell_its_cpus(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert engine._num_cpus() == os.cpu_count()


def test_a_full_disk_fails_the_cell_and_leaves_no_half_record(tmp_path, tiny):
    """As a limit of a file's size, which the system enforces as it would the disk's."""
    study = tiny(seeds=1)
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(study.to_mapping()))
    store = Store(tmp_path / "out")
    with store.writing(study):
        pass
    code = (
        "import resource, signal, sys; from pathlib import Path; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from rl_agg.study.run.engine import run_cell; import rl_agg.study.run.engine as engine;"
        "from rl_agg.study.spec.loading import load_study; from rl_agg.study.analysis.store import Store;"
        "reports = []; engine.tune.report = reports.append;"
        "study, store = load_study(Path(sys.argv[1])), Store(Path(sys.argv[2]));"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "run_cell(study.cells[0], store); print(reports[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code, spec, store.directory], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "'failed': 'OSError: [Errno 27] File too large'" in done.stdout
    assert list((store.directory / "cells").iterdir()) == []
    assert store.read(study.cells[0]) is None
