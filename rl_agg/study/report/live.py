"""The page of a study that runs, written again as cells finish."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rl_agg.study.report.writing import write_page

RELOAD_SECONDS = 10
"""After which an open page loads itself again."""
SHARE_OF_TIME = 0.02
"""That writing may take."""


class LivePage:
    """Within it the page says that the study is running, and open browsers follow it.

    A page that cannot be written costs the study nothing: the report after it says why.

    :param directory: The study's folder.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._next = 0.0
        self._is_written = False

    def __enter__(self) -> Self:
        return self

    def update(self) -> None:
        """Write the page, unless that was only just done."""
        if time.monotonic() < self._next:
            return
        start = time.monotonic()
        self._write(RELOAD_SECONDS)
        end = time.monotonic()
        self._next = end + max(RELOAD_SECONDS, (end - start) / SHARE_OF_TIME)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and self._is_written:  # otherwise a report follows
            self._write(None)

    def _write(self, reload_seconds: int | None) -> None:
        try:
            write_page(self._directory, reload_seconds)
            self._is_written = True
        except Exception:  # cells of days are worth more than a look at them
            self._next = float("inf")
