"""The finished runs of one system on one environment. Axes: U updates, S seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_agg.statistics import Array
from rl_agg.study.store import Record


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

    def has(self, column: str) -> bool:
        """Whether all runs recorded a column, and any number in it."""
        return all(column in record.updates and record.updates[column].notna().any() for record in self.records)

    def series(self, column: str) -> list[Array]:
        """A column of each run, ``[U]``; U may differ."""
        return [record.updates[column].to_numpy(dtype=np.float64) for record in self.records]

    def curve(self, column: str) -> Array:
        """A column of all runs ``[S, U]``; U is the longest run's, shorter ones end in NaN."""
        series = self.series(column)
        curve = np.full((len(series), max(map(len, series), default=0)), np.nan)
        for row, values in zip(curve, series, strict=True):
            row[: len(values)] = values
        return curve
