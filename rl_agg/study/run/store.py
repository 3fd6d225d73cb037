"""A study's folder: who may write to it, which cells are finished, and their records.

``study.yaml`` holds the resolved study, ``cells/`` one Parquet file for each finished cell, ``failures/`` the traceback of
each that failed. A file appears under its name only when it is complete, so a study can be killed at any moment.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rl_agg.study.errors import StudyError
from rl_agg.study.run.cells import Update
from rl_agg.study.run.provenance import provenance
from rl_agg.study.spec.parsing import dumped, load_yaml, read
from rl_agg.study.spec.study import Cell, Study

METADATA_KEY = b"rl_agg"
COLUMNS = pa.schema(
    [
        ("update", pa.int64()),
        ("env_steps", pa.int64()),
        ("wall_time", pa.float64()),
        ("return", pa.float64()),
        ("episodes", pa.int64()),
        ("agent_returns", pa.list_(pa.float64())),
    ]
)
METADATA = frozenset({"cell", "warnings", "versions", "commit", "host", "platform"})
"""What a report asks of a record's metadata."""


@dataclass(frozen=True)
class Record:
    """A finished cell.

    :param cell: Which.
    :param updates: One row for each update, with the columns of :data:`COLUMNS` and the scalars its system logged.
    :param metadata: Its definition, :func:`~rl_agg.study.run.provenance.provenance` and warnings.
    """

    cell: Cell
    updates: pd.DataFrame
    metadata: dict[str, Any]


class Store:
    """The folder of one study.

    :param directory: Made where it does not exist, once something is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()  # workers run elsewhere
        self._cells = self.directory / "cells"
        self._failures = self.directory / "failures"
        self._study_file = self.directory / "study.yaml"

    @contextmanager
    def writing(self, study: Study) -> Iterator[None]:
        """Hold the folder for one study; nobody else may write to it meanwhile. The lock goes with the process.

        :raises StudyError: if another run holds it, or it holds finished runs that are none of this study's.
        """
        try:
            self._cells.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"cannot write to {self.directory}: {error.strerror}") from error
        with open(self.directory / ".lock", "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise StudyError(f"{self.directory} is in use by another run ({lock.read().strip()})") from error
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {platform.node()}\n")
            lock.flush()
            self._claim(study)
            yield

    def refuse_to_overwrite(self, spec: Path, study: Study) -> None:
        """Keep a study that somebody wrote from being replaced by its resolved self, or by its quick one.

        :param spec: The file that the study was read from.
        :raises StudyError: if it is the one that the folder keeps its study in, and would change.
        """
        if spec.resolve() == self._study_file.resolve() and spec.read_bytes() != _content(study):
            raise StudyError(
                f"{spec} would be overwritten with the resolved study, which {self.directory} keeps under that name; "
                "rename it, or choose another --out"
            )

    def _claim(self, study: Study) -> None:
        if self.has_study:
            held = self.study()
            kept = {cell.key for cell in study.cells}
            lost = [cell for cell in held.cells if cell.key not in kept and self.read(cell) is not None]
            if lost:
                raise StudyError(
                    f"{self.directory} holds another study ({held.name!r}): {len(lost)} of its finished runs are none of this "
                    f"one's, for example {lost[0]}, whose name, settings or budget differ or which it leaves out. A study may "
                    "gain systems, environments and seeds and lose those without runs; for another one, or if these runs were "
                    "a --quick trial, choose another --out"
                )
        for leftover in self._cells.glob(".*.tmp"):
            leftover.unlink()
        write_atomically(self._study_file, _content(study))

    @property
    def has_study(self) -> bool:
        """Whether the folder holds one."""
        return self._study_file.exists()

    def study(self) -> Study:
        """The study that the folder holds.

        :raises StudyError: if it holds none.
        """
        if not self.has_study:
            raise StudyError(f"{self.directory} holds no study: there is no {self._study_file.name} in it")
        return read(Study, load_yaml(self._study_file), str(self._study_file))

    def write(self, cell: Cell, updates: Sequence[Update], warnings: Sequence[str] = ()) -> None:
        """Write a finished cell's record, and forget that it may have failed before."""
        self.keep(cell, encoded(cell, updates, warnings))

    def keep(self, cell: Cell, record: bytes) -> None:
        """Write a record that was made elsewhere.

        :param record: Of :func:`encoded`.
        """
        write_atomically(self._record_file(cell), record)
        self._failure_file(cell).unlink(missing_ok=True)

    def raw(self, cell: Cell) -> bytes | None:
        """A finished cell's record as :meth:`keep` takes it; ``None`` as for :meth:`read`."""
        return None if self.read(cell) is None else self._record_file(cell).read_bytes()

    def read(self, cell: Cell) -> Record | None:
        """Read a cell's record; ``None`` if there is none, it is damaged, or it is of another definition."""
        try:
            with pq.ParquetFile(self._record_file(cell), page_checksum_verification=True) as file:
                table = file.read()
            metadata = json.loads(table.schema.metadata[METADATA_KEY])
        except FileNotFoundError:
            return None
        except PermissionError:  # it is there, and must not be run again
            raise
        except (OSError, pa.ArrowException, TypeError, KeyError, ValueError):
            return None  # what half a file or flipped bits can raise; the cell is run again
        _check_version(metadata, table.column_names, self._record_file(cell))
        if metadata["cell"] != cell.key or table.num_rows == 0:
            return None
        return Record(cell, table.to_pandas(), metadata)

    def write_failure(self, cell: Cell, text: str) -> None:
        """Keep what a cell failed with."""
        self._failures.mkdir(parents=True, exist_ok=True)
        write_atomically(self._failure_file(cell), text.encode())

    def failure(self, cell: Cell) -> str | None:
        """What a cell failed with, if it did."""
        file = self._failure_file(cell)
        return file.read_text(encoding="utf-8") if file.exists() else None

    def clear_failure(self, cell: Cell) -> None:
        """Forget a failure before the cell is tried again."""
        self._failure_file(cell).unlink(missing_ok=True)

    def _record_file(self, cell: Cell) -> Path:
        return self._cells / f"{cell.id}.parquet"

    def _failure_file(self, cell: Cell) -> Path:
        return self._failures / f"{cell.id}.txt"


def _check_version(metadata: Any, columns: Sequence[str], file: Path) -> None:
    told = metadata if isinstance(metadata, dict) else {}
    missing = sorted((METADATA - told.keys()) | (set(COLUMNS.names) - set(columns)))
    if missing:
        versions = told.get("versions")
        version = versions.get("rl-agg") if isinstance(versions, dict) else None
        raise StudyError(
            f"{file} is of another version of rl-agg ({version or 'unknown'}): it lacks {', '.join(missing)}; read it with "
            "that version, or move it away to have its cell run again"
        )


def _content(study: Study) -> bytes:
    return dumped(study.to_mapping()).encode()


def encoded(cell: Cell, updates: Sequence[Update], warnings: Sequence[str] = ()) -> bytes:
    """Make a finished cell's record where it ran: a Parquet file."""
    columns: dict[str, Any] = {
        "update": [update.update for update in updates],
        "env_steps": [update.env_steps for update in updates],
        "wall_time": [update.wall_time for update in updates],
        "return": [update.mean_return for update in updates],
        "episodes": [update.episodes for update in updates],
        "agent_returns": [update.agent_returns for update in updates],
    }
    scalars = sorted({name for update in updates for name in update.scalars})
    for name in scalars:
        columns[name] = [update.scalars.get(name) for update in updates]
    schema = pa.schema([*COLUMNS, *((name, pa.float64()) for name in scalars)])
    metadata = {"cell": cell.key, "definition": cell.definition, "warnings": list(warnings), **provenance()}
    table = pa.table(columns, schema=schema.with_metadata({METADATA_KEY: json.dumps(metadata).encode()}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for half of it, not even after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
