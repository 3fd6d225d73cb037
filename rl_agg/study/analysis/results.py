"""All results of a study, computed from its records. Axes: U updates, S seeds, A agents."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rl_agg import statistics
from rl_agg.statistics import Array
from rl_agg.study.analysis.comparisons import Comparison, against, bases_of, scores_of
from rl_agg.study.analysis.costs import Cost, cost_of
from rl_agg.study.analysis.records import Record
from rl_agg.study.analysis.rows import Overall, Row, overall_of, rows_of
from rl_agg.study.analysis.runs import Runs
from rl_agg.study.analysis.store import Store
from rl_agg.study.spec.study import Cell, Study

__all__ = ["Comparison", "Cost", "Overall", "Results", "Row", "Runs", "results_of"]


LARGEST_RETURN = 1e150
"""In any environment's units."""


@dataclass(frozen=True)
class Results:
    """A study and the results of its finished cells.

    :param runs: By environment, then system; systems without a finished run there are left out.
    :param rows: A system on an environment, the best R̄ of each environment first.
    :param costs: Of each row.
    :param overall: Empty with one environment.
    :param failures: Cell and traceback of each that failed.
    """

    study: Study
    runs: dict[str, dict[str, Runs]]
    rows: list[Row]
    costs: list[Cost]
    overall: list[Overall]
    failures: list[tuple[Cell, str]]
    _comparisons: dict[tuple[str, str, str], list[Comparison]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rows_by_environment(self) -> dict[str, list[Row]]:
        """Rows of each environment that has any."""
        grouped: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            grouped[row.environment].append(row)
        return dict(grouped)

    @property
    def records(self) -> list[Record]:
        """Of all finished cells."""
        return [record for systems in self.runs.values() for runs in systems.values() for record in runs.records]

    def bases(self, environment: str) -> tuple[str, str]:
        """The bases on which systems are compared there."""
        return bases_of(self.study.environments[environment])

    def comparisons(self, environment: str, system: str, reference: str) -> list[Comparison]:
        """How a system compares with another there, on each basis."""
        names = (environment, system, reference)
        if names not in self._comparisons:  # the verdict, the tables and the charts all ask
            own, other = (self.runs[environment][name] for name in (system, reference))
            found = [against(own, other, scores) for scores in scores_of([own, other], self.bases(environment))]
            self._comparisons[names] = found
        return self._comparisons[names]

    def differences(self, environment: str) -> dict[str, list[Comparison]]:
        """How each other system compares with the baseline there, the best R̄ first; empty without runs of the baseline."""
        baseline = self.study.baseline
        rows = self.rows_by_environment.get(environment, [])
        if baseline not in self.runs[environment]:
            return {}
        others = [row.system for row in rows if row.system != baseline]
        return {name: self.comparisons(environment, name, baseline) for name in others}

    def standing(self, environment: str, system: str) -> str:
        """``finished`` where it has a run there, else ``failed`` or ``not finished``."""
        if system in self.runs[environment]:
            return "finished"
        failed = any((cell.environment_name, cell.system_name) == (environment, system) for cell, _ in self.failures)
        return "failed" if failed else "not finished"


def results_of(store: Store) -> Results:
    """Read a folder and compute its tables.

    :raises StudyError: if the folder holds no study.
    """
    study = store.study()
    cells = study.cells
    records: dict[tuple[str, str], list[Record]] = defaultdict(list)
    failures = []
    for cell in cells:
        if (record := store.read(cell)) is not None:
            records[cell.environment_name, cell.system_name].append(_with_countable_returns(record))
        if (text := store.failure(cell)) is not None:
            failures.append((cell, text))
    runs = {
        environment: {
            system: _runs(system, environment, records[environment, system], study.end_share)
            for system in study.systems
            if records[environment, system]
        }
        for environment in study.environments
    }
    rows = [row for name, systems in runs.items() for row in rows_of(systems, study.environments[name], study.baseline)]
    costs = [cost_of(runs[row.environment][row.system], study.end_share) for row in rows]
    return Results(study, runs, rows, costs, overall_of(runs, study), failures)


def _with_countable_returns(record: Record) -> Record:
    """Without returns whose squares and sums are no numbers; a warning says so."""
    returns = record.updates["return"]
    beyond = np.isfinite(returns) & (returns.abs() > LARGEST_RETURN)
    if not beyond.any():
        return record
    note = f"{int(beyond.sum())} returns beyond {LARGEST_RETURN:.0e} are left out"
    metadata = {**record.metadata, "warnings": [*record.metadata["warnings"], note]}
    return Record(record.cell, record.updates.assign(**{"return": returns.mask(beyond)}), metadata)


def _runs(system: str, environment: str, records: Sequence[Record], end_share: float) -> Runs:
    own = sorted(records, key=lambda record: record.cell.seed)
    returns = [record.updates["return"].to_numpy() for record in own]
    ends: Array = np.array([statistics.end_return(run, end_share) for run in returns])
    means: Array = np.array([statistics.mean_return(run) for run in returns])
    return Runs(system, environment, [record.cell.seed for record in own], own, means, ends)
