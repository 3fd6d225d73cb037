"""Known runs, and how to write them into a study's folder."""

import math

from rl_agg.study.analysis.records import CellUpdate, encoded
from rl_agg.study.run.provenance import provenance

NAN = math.nan
RAMP = [[NAN, 4.0, 8.0, 12.0], [2.0, 2.0, 6.0, 20.0]]  # means 8 and 7.5; ends (half) 10 and 13
FLAT = [[5.0] * 4, [6.0] * 4]


def keep(store, cell, updates, warnings=()):
    """Write a finished cell's record."""
    store.keep(cell, encoded(cell, updates, provenance(), warnings))


def rows_of(results):
    return {(row.environment, row.system): row for row in results.rows}


def shifted(by, seeds):
    return [[10.0 + seed + by] * 4 for seed in range(seeds)]


def run_of(values, steps=100, messages=None):
    """A run whose updates take this many steps, and send this many messages of 10 bytes."""
    scalars = [
        {} if messages is None else {"agg/messages": messages * n, "agg/bytes": 10 * messages * n, "agg/mu_reward": value / 2}
        for n, value in enumerate(values, 1)
    ]
    return [
        CellUpdate(n, steps * n, float(n), value, 1, [value] * 4, scalar)
        for n, (value, scalar) in enumerate(zip(values, scalars, strict=True), 1)
    ]
