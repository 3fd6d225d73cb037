"""How long the rest of a study will take."""

from collections import defaultdict
from collections.abc import Collection
from statistics import fmean

from rl_agg.study.spec.study import Cell


class Remaining:
    r"""Estimates the time left from the seconds that cells have trained for.

    A cell takes :math:`d = s / f`, where it has trained for s seconds and used up the fraction f of its budget. One that has
    not begun takes the mean d of its system and environment, or of all cells where none of these has begun. The time left is
    the sum of :math:`d - s` over the cells that are not over, divided by the seconds of training per second since the first
    report; until a cell is over, by the number of cells that train. It is never less than the longest of these terms.
    Starting Ray and importing torch are no training.

    :param cells: Those to run.
    """

    def __init__(self, cells: Collection[Cell]) -> None:
        self._left = set(cells)
        self._trained: dict[Cell, float] = {}
        self._durations: dict[tuple[str, str], dict[Cell, float]] = defaultdict(dict)
        self._first: tuple[float, float] | None = None  # when the first report came, and the seconds in it

    def updated(self, cell: Cell, fraction: float, seconds: float, now: float) -> None:
        """A cell has trained for so many seconds and used up this fraction of its budget.

        :param now: By a clock that never goes back.
        """
        self._trained[cell] = seconds
        if fraction > 0:
            self._durations[_combination(cell)][cell] = seconds / fraction
            self._first = self._first or (now, seconds)

    def over(self, cell: Cell) -> None:
        """A cell is finished or has failed."""
        self._left.discard(cell)

    def seconds(self, now: float) -> float | None:
        """The time left; ``None`` until a cell has trained."""
        if self._first is None:
            return None
        begin, before = self._first
        means = {combination: fmean(found.values()) for combination, found in self._durations.items()}
        overall = fmean(means.values())
        left = []
        for cell in self._left:
            combination = _combination(cell)
            duration = self._durations.get(combination, {}).get(cell, means.get(combination, overall))
            left.append(max(0.0, duration - self._trained.get(cell, 0.0)))
        running = self._left & self._trained.keys()
        speed = float(len(running) or 1)
        if len(running) < len(self._trained) and now > begin:  # one is over
            speed = (sum(self._trained.values()) - before) / (now - begin) or speed
        return max([sum(left) / speed, *left])  # the longest cell cannot be divided


def _combination(cell: Cell) -> tuple[str, str]:
    return cell.system_name, cell.environment_name
