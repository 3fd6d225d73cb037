"""One cell from its settings to its record."""

import warnings

from rl_agg.study.analysis.records import encoded
from rl_agg.study.errors import StudyError
from rl_agg.study.run.provenance import provenance
from rl_agg.study.run.runners import OnUpdate, runner_for
from rl_agg.study.spec.study import Cell

LEAST_USED = 0.95
"""The fraction of its budget below which a run that ends by itself has a warning in its record."""


def train(cell: Cell, on_update: OnUpdate) -> bytes:
    """Train a cell, in this process.

    :param on_update: Called after each update.
    :return: Its record, of :func:`~rl_agg.study.analysis.records.encoded`, with the warnings that it caused.
    :raises StudyError: if it ends without an update.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        runner = runner_for(cell)
        origin = provenance(runner.packages)  # before the run, whatever is committed meanwhile
        updates = runner.run(cell, on_update)
        if not updates:
            raise StudyError(f"{cell.system.system} ended without a single update")
        used = cell.budget.used(updates[-1].update, updates[-1].env_steps, updates[-1].wall_time)
        if used < LEAST_USED:
            warnings.warn(f"it ended by itself after {100 * used:.0f} % of its budget", stacklevel=1)
        unique = dict.fromkeys(str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
        return encoded(cell, updates, origin, list(unique))
