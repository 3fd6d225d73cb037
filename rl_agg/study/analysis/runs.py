"""The finished runs of one system on one environment. Axes: U updates, S seeds."""

from dataclasses import dataclass, field

import numpy as np

from rl_agg.statistics import Array
from rl_agg.study.analysis.records import Record


@dataclass(frozen=True)
class Runs:
    """The finished runs of one system on one environment.

    :param seeds: Which seeds ``[S]``, in order.
    :param records: Theirs ``[S]``.
    :param mean_returns: R̄ of each ``[S]``.
    :param end_returns: R̄_end of each ``[S]``.
    """

    system: str
    environment: str
    seeds: list[int]
    records: list[Record]
    mean_returns: Array
    end_returns: Array
    _series: dict[str, list[Array]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_infinite(self) -> int:
        """How many runs have finished episodes, but none with a return that counts."""
        without = zip(np.isnan(self.mean_returns), self.records, strict=True)
        return sum(bool(record.updates["episodes"].any()) for is_without, record in without if is_without)

    def has(self, column: str) -> bool:
        """Whether all runs recorded a column, with a number in it."""
        return all(column in record.updates for record in self.records) and not any(
            np.isnan(run).all() for run in self.series(column)
        )

    def series(self, column: str) -> list[Array]:
        """A column of each run, ``[U]``; U may differ."""
        if column not in self._series:  # asked for again and again, and slow to get out of a frame
            self._series[column] = [record.updates[column].to_numpy(dtype=np.float64) for record in self.records]
        return self._series[column]

    def curve(self, column: str) -> Array:
        """A column of all runs ``[S, U]``; U is the longest run's, shorter ones end in NaN."""
        series = self.series(column)
        curve = np.full((len(series), max(map(len, series), default=0)), np.nan)
        for row, values in zip(curve, series, strict=True):
            row[: len(values)] = values
        return curve
