"""Progress of a running study: a live bar in a terminal, a line for each finished cell elsewhere."""

import math
import time
from collections.abc import Collection
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rl_agg.study.analysis.wording import number
from rl_agg.study.run.remaining import Remaining
from rl_agg.study.spec.study import Cell
from rl_agg.study.terminal import say

FEWEST_RUNS = 2
"""Of each system, before they are compared: one run is luck."""


class StudyProgress:
    """Shows how much of a study is finished.

    :param console: Where to write.
    :param cells: Those to run.
    :param done: How many others are finished.
    """

    def __init__(self, console: Console, cells: Collection[Cell], done: int = 0) -> None:
        self._console = console
        self._total = done + len(cells)
        self._done = done
        self._start = time.monotonic()
        self._left = Remaining(cells)
        self._fractions: dict[Cell, float] = {}
        self._returns: dict[Cell, float] = {}
        self._tasks: dict[Cell, TaskID] = {}
        self._finished: dict[str, dict[str, list[float]]] = {}  # last returns by environment and system
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}"))
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._all = self._bars.add_task("[bold]cells", total=self._total, completed=done, note=self._summary())

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt):  # Ray takes seconds to stop
            say(self._console, f"Stopping after {_clock(time.monotonic() - self._start)}; finished cells are kept …")

    def updated(self, cell: Cell, fraction: float, mean_return: float, seconds: float) -> None:
        """A cell has used up this fraction of its budget in so many seconds of training, with this return.

        :param mean_return: NaN: no episode has finished; infinite: no return is finite.
        """
        self._fractions[cell], self._returns[cell] = fraction, mean_return
        self._left.updated(cell, fraction, seconds, time.monotonic())
        if cell not in self._tasks:
            self._tasks[cell] = self._bars.add_task(escape(str(cell)), total=1.0, note="")
        self._bars.update(self._tasks[cell], completed=fraction, note=_in_words(mean_return))
        self._show_all()

    def finished(self, cell: Cell) -> None:
        """A cell's record is written."""
        last = self._returns.get(cell, math.nan)
        if math.isfinite(last):
            self._finished.setdefault(cell.environment_name, {}).setdefault(cell.system_name, []).append(last)
        self._over(cell, f"{escape(str(cell))}: {_in_words(last)}{self._best(cell)}")

    def _best(self, cell: Cell) -> str:
        """The system with the highest mean return on this cell's environment, among those with several runs there."""
        finished = self._finished.get(cell.environment_name, {})
        means = {name: fmean(returns) for name, returns in finished.items() if len(returns) >= FEWEST_RUNS}
        if len(means) < 2:
            return ""
        best = max(means, key=lambda name: means[name])
        return f" · best so far {escape(best)}, {number(means[best])} in {len(finished[best])} runs"

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell failed."""
        self._over(cell, f"[red]FAILED[/] {escape(str(cell))}: {escape(reason)}")

    def _over(self, cell: Cell, line: str) -> None:
        self._done += 1
        self._left.over(cell)
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
        if self._done >= self._total:
            return f"done in {_clock(time.monotonic() - self._start)}"
        seconds = self._left.seconds(time.monotonic())
        return "estimating" if seconds is None else f"about {_clock(seconds)} left"


def _in_words(mean_return: float) -> str:
    if math.isnan(mean_return):
        return "no episode finished yet"
    return f"return {number(mean_return)}" if math.isfinite(mean_return) else "returns are NaN or infinite"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
