"""Progress of a running study: a live bar in a terminal, a line for each finished cell elsewhere."""

import math
import time
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rl_agg.study.spec.study import Cell


class StudyProgress:
    """Shows how much of a study is finished.

    :param console: Where to write.
    :param total: Cells of the study.
    :param done: Those finished before this run.
    """

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console = console
        self._total = total
        self._done = self._done_before = done
        self._start = time.monotonic()
        self._fractions: dict[Cell, float] = {}
        self._returns: dict[Cell, float] = {}
        self._tasks: dict[Cell, TaskID] = {}
        self._finished: dict[str, dict[str, list[float]]] = {}  # last returns by environment and system
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}"))
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._all = self._bars.add_task("[bold]cells", total=total, completed=done, note=self._summary())

    def __enter__(self) -> Self:
        if self._done:
            self._console.print(f"{self._done} of {self._total} cells are already finished", highlight=False)
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def updated(self, cell: Cell, fraction: float, mean_return: float) -> None:
        """A cell has used up this fraction of its budget, with this return."""
        self._fractions[cell], self._returns[cell] = fraction, mean_return
        if cell not in self._tasks:
            self._tasks[cell] = self._bars.add_task(escape(str(cell)), total=1.0, note="")
        self._bars.update(self._tasks[cell], completed=fraction, note=_in_words(mean_return))
        self._show_all()

    def finished(self, cell: Cell) -> None:
        """A cell's record is written."""
        last = self._returns.get(cell, math.nan)
        if not math.isnan(last):
            self._finished.setdefault(cell.environment_name, {}).setdefault(cell.system_name, []).append(last)
        self._over(cell, f"{escape(str(cell))}: {_in_words(last)}{self._best(cell)}")

    def _best(self, cell: Cell) -> str:
        """The system with the highest mean return on this cell's environment, once several have finished a run there."""
        means = {name: fmean(returns) for name, returns in self._finished.get(cell.environment_name, {}).items()}
        if len(means) < 2:
            return ""
        best = max(means, key=lambda name: means[name])
        return f" · best so far {escape(best)}, {means[best]:.1f}"

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell failed."""
        self._over(cell, f"[red]FAILED[/] {escape(str(cell))}: {escape(reason)}")

    def _over(self, cell: Cell, line: str) -> None:
        self._done += 1
        self._fractions.pop(cell, None)
        if cell in self._tasks:
            self._bars.remove_task(self._tasks.pop(cell))
        self._show_all()
        self._console.print(f"\\[{self._done}/{self._total}] {line} · {self._remaining()}", highlight=False, soft_wrap=True)

    def _show_all(self) -> None:
        self._bars.update(self._all, completed=self._done + sum(self._fractions.values()), note=self._summary())

    def _summary(self) -> str:
        return f"{self._done} of {self._total} · {self._remaining()}"

    def _remaining(self) -> str:
        elapsed = time.monotonic() - self._start
        worked = self._done - self._done_before + sum(self._fractions.values())
        if self._done >= self._total:
            return f"done in {_clock(elapsed)}"
        if worked <= 0:
            return "estimating"
        return f"about {_clock(elapsed / worked * (self._total - self._done_before - worked))} left"


def _in_words(mean_return: float) -> str:
    return "no episode finished yet" if math.isnan(mean_return) else f"return {mean_return:.1f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
