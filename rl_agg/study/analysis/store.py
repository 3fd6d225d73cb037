"""A study's folder: who may write to it, which cells are finished, and their records.

``study.yaml`` holds the resolved study, ``cells/`` one Parquet file for each finished cell, ``failures/`` the traceback of
each that failed. A file appears under its name only when it is complete, so a study can be killed at any moment.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl_agg.study.analysis.records import Record, decoded
from rl_agg.study.errors import StudyError
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.parsing import dumped, load_yaml, read
from rl_agg.study.spec.study import Cell, Study

try:
    import fcntl
except ModuleNotFoundError as error:
    raise StudyError("studies need Linux or macOS: a study's folder is locked with fcntl, which Windows has not") from error

FOLDERS = ("cells", "failures", "figures", "tensorboard")
"""Within a study's."""
REPORTS = ("report.html", "report.md", "report.csv", "comparisons.csv")
"""Files that a study's report replaces."""


class Store:
    """The folder of one study.

    :param directory: Created with the first file that is written.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()  # workers run elsewhere
        self._cells = self.directory / "cells"
        self._failures = self.directory / "failures"
        self._study_file = self.directory / "study.yaml"

    @contextmanager
    def writing(self, study: Study) -> Iterator[None]:
        """Lock the folder for one study. The lock ends with the process at the latest.

        :raises StudyError: if another run holds the lock, or the folder has finished runs that are not of this study.
        """
        self.refuse_links()
        self.refuse_other_files()
        try:
            self._cells.mkdir(parents=True, exist_ok=True)
            lock_file = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise StudyError(f"cannot write to {self.directory}: {error.strerror}") from error
        with open(lock_file, "r+", encoding="utf-8") as lock:
            if os.fstat(lock_file).st_nlink > 1:
                raise StudyError(f"{self.directory / '.lock'} is a link to another file; remove it")
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

    def refuse_links(self) -> None:
        """Raise if something in the folder leads out of it.

        :raises StudyError: naming the link.
        """
        for path in (self._study_file, *(self.directory / name for name in FOLDERS), self.directory / ".lock"):
            if path.is_symlink():
                raise StudyError(f"{path} is a link, and nothing in a study's folder is followed out of it; remove it")

    def refuse_other_files(self) -> None:
        """Raise if a file is where the folder should be, or the folder holds no study but files that a report would replace.

        :raises StudyError: naming the file.
        """
        for path in (self.directory, *self.directory.parents):
            if path.is_file():
                raise StudyError(f"cannot write to {path}: it is a file, and --out must name a folder; choose another one")
        foreign = [] if self.has_study else [name for name in REPORTS if (self.directory / name).exists()]
        if foreign:
            raise StudyError(
                f"{self.directory / foreign[0]} would be overwritten, and {self.directory} holds no study that it could be "
                "the report of; move it away, or choose another --out"
            )

    def refuse_to_overwrite(self, spec: Path, study: Study) -> None:
        """Raise if the resolved study would replace the file that the user wrote.

        :param spec: The file that the study was read from.
        :raises StudyError: if it is the one that the folder keeps its study in, and would change.
        """
        if spec.resolve() == self._study_file.resolve() and spec.read_bytes() != _content(study):
            raise StudyError(
                f"{spec} would be overwritten with the resolved study, which {self.directory} keeps under that name; "
                "rename it, or choose another --out"
            )

    def refuse_another(self, study: Study) -> None:
        """Raise if the folder has finished runs that are not of a study.

        :raises StudyError: naming one of them.
        """
        if not self.has_study:
            return
        held = self.study()
        kept = {cell.key for cell in study.cells}
        lost = [cell for cell in held.cells if cell.key not in kept and self.read(cell) is not None]
        if lost:
            raise StudyError(
                f"{self.directory} holds another study ({held.name!r}): {len(lost)} of its finished runs are not of this "
                f"one, for example {lost[0]}, whose name, settings or budget differ or which it leaves out. A study may "
                "gain systems, environments and seeds and lose those without runs; for another one, or if these runs were "
                "a --quick trial, choose another --out"
            )

    def _claim(self, study: Study) -> None:
        self.refuse_another(study)
        for leftover in self._cells.glob(".*.tmp"):
            leftover.unlink()
        write_atomically(self._study_file, _content(study))

    @property
    def has_study(self) -> bool:
        """Whether the folder holds one."""
        return self._study_file.exists()

    def study(self) -> Study:
        """The study that the folder holds.

        :raises StudyError: if it holds none, or one that makes no sense.
        """
        self.refuse_links()
        if not self.has_study:
            raise StudyError(f"{self.directory} holds no study: there is no {self._study_file.name} in it")
        return resolve(read(Study, load_yaml(self._study_file), str(self._study_file)))

    def keep(self, cell: Cell, record: bytes) -> None:
        """Write a finished cell's record, and delete the traceback of an earlier failure.

        :param record: Of :func:`~rl_agg.study.analysis.records.encoded`.
        """
        write_atomically(self._record_file(cell), record)
        self.clear_failure(cell)

    def raw(self, cell: Cell) -> bytes | None:
        """A finished cell's record as :meth:`keep` takes it; ``None`` as for :meth:`read`."""
        return None if self.read(cell) is None else self._record_file(cell).read_bytes()

    def read(self, cell: Cell) -> Record | None:
        """Read a cell's record; ``None`` if there is none, it is damaged, or it is of another definition.

        :raises StudyError: if it was written by a version of rl-agg whose records lack something.
        """
        file = self._record_file(cell)
        try:
            return decoded(cell, file.read_bytes())
        except FileNotFoundError:
            return None
        except StudyError as error:
            advice = "read it with that version, or move it away to have its cell run again"
            raise StudyError(f"{file}: {error}; {advice}") from error

    def write_failure(self, cell: Cell, text: str) -> None:
        """Write the traceback of a cell that failed."""
        self._failures.mkdir(parents=True, exist_ok=True)
        write_atomically(self._failure_file(cell), text.encode())

    def failure(self, cell: Cell) -> str | None:
        """The traceback of a cell that failed."""
        file = self._failure_file(cell)
        return file.read_text(encoding="utf-8") if file.exists() else None

    def clear_failure(self, cell: Cell) -> None:
        """Delete the traceback before the cell is tried again."""
        self._failure_file(cell).unlink(missing_ok=True)

    def _record_file(self, cell: Cell) -> Path:
        return self._cells / f"{cell.id}.parquet"

    def _failure_file(self, cell: Cell) -> Path:
        return self._failures / f"{cell.id}.txt"


def _content(study: Study) -> bytes:
    return dumped(study.to_mapping()).encode()


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
