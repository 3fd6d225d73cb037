"""A study's folder: complete records or none, one study, one writer."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from returns import keep

from rl_agg.study.analysis.records import DIGEST_KEY, METADATA_KEY
from rl_agg.study.analysis.store import Store, write_atomically
from rl_agg.study.errors import StudyError
from rl_agg.study.spec.study import Budget, System


def record_file(store, cell):
    return store.directory / "cells" / f"{cell.id}.parquet"


@pytest.fixture
def written(tmp_path, tiny, updates_of):
    study, store = tiny(), Store(tmp_path / "out")
    cell = study.cells[0]
    with store.writing(study):
        keep(store, cell, updates_of([math.nan, 7.0, 8.5]), ["mind the gap"])
    return store, study, cell


def test_a_record_reads_back(written):
    store, _, cell = written
    record = store.read(cell)
    np.testing.assert_equal(record.updates["return"].to_numpy(), [math.nan, 7.0, 8.5])
    assert record.updates["env_steps"].tolist() == [100, 200, 300]
    assert record.updates["agg/weight_max"].tolist() == [1.0, 1.0, 1.0]
    assert record.updates["agent_returns"][2].tolist() == [8.5, 8.5]
    assert record.metadata["warnings"] == ["mind the gap"]


def test_a_record_explains_itself_to_any_parquet_reader(written):
    store, _, cell = written
    metadata = json.loads(pq.read_schema(record_file(store, cell)).metadata[METADATA_KEY])
    assert metadata["definition"]["seed"] == cell.seed
    assert metadata["definition"]["system"] == {"system": "stable_baselines3:PPO"}
    assert {"python", "torch", "rl-agg"} <= metadata["versions"].keys()
    assert metadata["host"]


def test_a_stored_study_is_the_one_given(written):
    store, study, _ = written
    assert store.study() == study


@pytest.mark.parametrize("damage", ["cut in half", "empty", "not parquet", "a flipped bit", "no metadata"])
def test_a_damaged_record_counts_as_none(written, damage):
    store, _, cell = written
    file = record_file(store, cell)
    whole = file.read_bytes()
    if damage == "no metadata":
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    else:
        flipped = bytearray(whole)
        flipped[whole.index(np.float64(8.5).tobytes())] ^= 1  # within a page: only its checksum can detect it
        file.write_bytes(
            {"cut in half": whole[: len(whole) // 2], "empty": b"", "not parquet": b"x" * 500}.get(damage, bytes(flipped))
        )
    assert store.read(cell) is None


def test_a_record_of_another_definition_counts_as_none(written, tiny):
    store, _, cell = written
    other = tiny(budget=Budget(updates=99)).cells[0]
    record_file(store, cell).rename(record_file(store, other))
    assert store.read(other) is None


def metadata_of(change):
    def changed(table):
        metadata = json.loads(table.schema.metadata[METADATA_KEY])
        return table.replace_schema_metadata({METADATA_KEY: json.dumps(change(metadata)).encode()})

    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            metadata_of(lambda given: {key: value for key, value in given.items() if key != "warnings"}),
            r"\(\d.*: warnings is missing;",
        ),
        (metadata_of(lambda given: [given]), r"\(unknown\): cell is missing, commit is missing, host is missing"),
        (lambda table: table.drop_columns(["return"]), r"\(\d.*: return is missing;"),
    ],
    ids=["a key is missing", "a list", "no returns"],
)
def test_a_record_of_another_version_is_reported(written, change, words):
    store, _, cell = written
    file = record_file(store, cell)
    table = change(pq.read_table(file))
    older = {key: value for key, value in table.schema.metadata.items() if key != DIGEST_KEY}
    pq.write_table(table.replace_schema_metadata(older), file)
    with pytest.raises(StudyError, match=rf"parquet: a record of another version of rl-agg {words}"):
        store.read(cell)


def test_a_record_that_may_not_be_read_is_not_missing(written, monkeypatch):
    store, _, cell = written

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "cells/it.parquet")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError):
        store.read(cell)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"


def test_another_study_is_an_error(written, tiny):
    store, _, cell = written
    before = (store.directory / "study.yaml").read_bytes()
    other = tiny(budget=Budget(updates=99))
    message = rf"holds another study \('tiny'\): 1 of its finished runs .* for example {cell}, .*--quick trial, choose another"
    with pytest.raises(StudyError, match=message), store.writing(other):
        pytest.fail("it was let in")
    assert (store.directory / "study.yaml").read_bytes() == before


def test_a_study_may_grow(written, tiny):
    store, _, cell = written
    more = {"more": System("sb3_agg:AggPPO", {"aggregation": "mean"})}
    with store.writing(tiny(seeds=5, systems={**tiny().systems, **more})):
        assert store.read(cell) is not None
    assert len(store.study().cells) == 15


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.csv", "comparisons.csv"])
def test_files_that_are_not_the_studys_are_kept(name, tmp_path, tiny):
    file = tmp_path / name
    file.write_text("mine")
    with pytest.raises(StudyError, match=f"{name} would be overwritten"), Store(tmp_path).writing(tiny()):
        pass
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_new_title_is_not_another_study(written, tiny):
    store, _, cell = written
    with store.writing(tiny(name="new title")):
        assert store.read(cell) is not None
    assert store.study().name == "new title"


HOLD = """
import sys
from pathlib import Path
from rl_agg.study.spec.loading import load_study
from rl_agg.study.analysis.store import Store
with Store(Path(sys.argv[1])).writing(load_study(Path(sys.argv[2]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_an_error_until_the_first_ends(tmp_path, tiny):
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(tiny().to_mapping()))
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out"), str(spec)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        store = Store(tmp_path / "out")
        with pytest.raises(StudyError, match=rf"in use by another run \(process {first.pid} on "), store.writing(tiny()):
            pytest.fail("it was let in")
        first.kill()  # with no chance to tidy up: the lock must go with the process
    with store.writing(tiny()):
        pass


def test_leftovers_of_a_killed_run_are_cleared(written, tiny):
    store, study, _ = written
    leftover = store.directory / "cells" / ".half.parquet.123.tmp"
    leftover.write_bytes(b"half")
    with store.writing(study):
        assert not leftover.exists()


def test_a_folder_without_a_study_is_reported(tmp_path):
    with pytest.raises(StudyError, match=r"holds no study"):
        Store(tmp_path).study()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, tiny):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError, match="cannot write"), Store(tmp_path / "file").writing(tiny()):
        pytest.fail("it was let in")


def test_success_forgets_an_earlier_failure(written, updates_of):
    store, study, _ = written
    cell = study.cells[1]
    store.write_failure(cell, "Traceback\nValueError: no")
    assert store.failure(cell).endswith("no")
    keep(store, cell, updates_of([1.0]))
    assert store.failure(cell) is None
