"""Rules among unequal agents, by ``benchmarks/replication/PROTOCOL.md``: run the studies, and compare what is finished.

``run.py unequal run`` continues where it stopped, one run after another in this process; ``run.py unequal report`` writes
``results/unequal/<stage>.csv`` from the committed records, of which ``docs/pictures.py`` draws the heat map.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import math
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
from scipy import stats

from rl_agg import statistics
from rl_agg.statistics import Array
from rl_agg.study import load_study
from rl_agg.study.analysis.store import Store
from rl_agg.study.run.training import train
from rl_agg.study.spec.study import Cell, Study

STUDIES = record.HERE.parent / "examples" / "studies" / "unequal"
RESULTS = record.RESULTS / "unequal"
KINDS = (
    *("equal", "broken_sensors", "noisy_sensors", "broken_reward"),
    *("reward_scale", "sparse", "dynamics", "tasks", "liars"),
)
RANGES = {
    "CartPole-v1": (20, 500),
    "Acrobot-v1": (-500, -80),
    "LunarLanderContinuous-v3": (-200, 200),
    "BipedalWalker-v3": (-100, 300),
    "HalfCheetah-v5": (0, 3000),
    "GoalReacher": (-50, -10),
}
"""Returns of a random policy and of a good one, cheapest environment first."""
SEEDS = {
    "tuning": [90000, 90100, 90200],
    "selection": list(range(10000, 11000, 100)),
    "confirmation": list(range(20000, 21000, 100)),
}
MEASURES = ("mean", "end")
LEVEL, TIE = 0.05, 0.05


@dataclass(frozen=True)
class Comparison:
    """A rule and the mean in one case.

    :param num_pairs: Seeds that both have.
    :param baseline: The mean's own score.
    :param difference: Of the rule from it.
    :param low: The 95 % interval's end, uncorrected.
    :param p_value: NaN where a seed is missing.
    """

    kind: str
    environment: str
    rule: str
    measure: str
    num_pairs: int
    baseline: float
    difference: float
    low: float
    high: float
    p_value: float
    corrected_p_value: float = math.nan
    corrected_low: float = math.nan
    corrected_high: float = math.nan

    @property
    def share(self) -> float:
        """The difference as a share of the environment's range."""
        least, most = RANGES[self.environment]
        return self.difference / (most - least)

    @property
    def outcome(self) -> str:
        """As the protocol says."""
        if math.isnan(self.p_value):
            return f"{self.num_pairs} seeds"
        if self.corrected_p_value < LEVEL:
            return "win" if self.difference > 0 else "loss"
        least, most = RANGES[self.environment]
        return "tie" if max(-self.low, self.high) <= TIE * (most - least) else "open"


def main(arguments: list[str]) -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser(prog="run.py unequal", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run what is not finished, cheapest first")
    run.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    run.add_argument("--environments", nargs="+", choices=RANGES, default=list(RANGES))
    run.add_argument("--rules", nargs="+", help="all of the studies unless given")
    run.add_argument("--seconds", type=float, default=math.inf, help="begin no run after this many")
    run.add_argument("--retry-failed", action="store_true", help="run again what failed before")
    for command in (run, commands.add_parser("report", help="compare what is finished")):
        command.add_argument("--stage", choices=SEEDS, default="selection")
        command.add_argument("--out", type=Path, default=RESULTS, help="folder of the records and tables")
    options = parser.parse_args(arguments)
    if options.command == "run":
        _run(options)
    else:
        _report(options.stage, options.out)


def _study(kind: str, stage: str) -> Study:
    return dataclasses.replace(load_study(STUDIES / f"{kind}.yaml"), seeds=SEEDS[stage])


def _run(options: argparse.Namespace) -> None:
    begin = time.monotonic()
    studies = {kind: _study(kind, options.stage) for kind in options.kinds}
    stores = {kind: Store(options.out / options.stage / kind) for kind in studies}
    with ExitStack() as locks:
        for kind, study in studies.items():
            locks.enter_context(stores[kind].writing(study))
        for kind, cell in _in_order(studies, options.environments, options.rules):
            store = stores[kind]
            if store.read(cell) is not None or (store.failure(cell) is not None and not options.retry_failed):
                continue
            if time.monotonic() - begin > options.seconds:
                return
            start = time.monotonic()
            try:
                store.keep(cell, train(cell, lambda update, fraction: None))
            except Exception as error:  # any failure of a cell is its own; the others continue
                store.write_failure(cell, traceback.format_exc())
                print(f"FAILED {kind}: {cell}: {error}", flush=True)
            else:
                print(f"{kind}: {cell}, {time.monotonic() - start:.0f} s", flush=True)


def _in_order(
    studies: dict[str, Study], environments: Sequence[str], rules: Sequence[str] | None
) -> Iterator[tuple[str, Cell]]:
    """Environment by environment, seed by seed, kind by kind."""
    cells = [(kind, cell) for kind, study in studies.items() for cell in study.cells]
    chosen = [
        (kind, cell)
        for kind, cell in cells
        if cell.environment_name in environments and (rules is None or cell.system_name in rules)
    ]
    places = {name: place for place, name in enumerate(RANGES)}
    yield from sorted(chosen, key=lambda item: (places[item[1].environment_name], item[1].seed))  # stable: kinds as they come


def _report(stage: str, out: Path) -> None:
    found = [comparison for kind in KINDS for comparison in _of_kind(kind, stage, out / stage / kind)]
    if not found:
        raise SystemExit(f"nothing is finished in {out / stage}")
    corrected = [item for measure in MEASURES for item in _corrected([row for row in found if row.measure == measure])]
    with (out / f"{stage}.csv").open("w", newline="") as file:
        rows = [{**dataclasses.asdict(item), "share": item.share, "outcome": item.outcome} for item in corrected]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in row.items()} for row in rows)
    for item in corrected:
        print(f"{item.kind:15} {item.environment:25} {item.rule:16} {item.measure:5} {item.difference:8.1f} {item.outcome}")


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _of_kind(kind: str, stage: str, folder: Path) -> Iterator[Comparison]:
    """Each rule in each environment in which it and the mean have two runs of the same seeds."""
    store, study = Store(folder), _study(kind, stage)
    if not store.has_study:
        return
    for environment, measure in itertools.product(study.environments, MEASURES):
        scores = {rule: _scores(store, study, environment, rule, measure) for rule in study.systems}
        for rule in study.systems:
            if rule == study.baseline:
                continue
            pairs = np.array([scores[rule] - scores[study.baseline], scores[study.baseline]])
            differences, baseline = pairs[:, ~np.isnan(pairs).any(0)]
            if len(differences) > 1:
                yield _compared(kind, environment, rule, measure, differences, baseline, len(SEEDS[stage]))


def _scores(store: Store, study: Study, environment: str, rule: str, measure: str) -> Array:
    """Of each seed, NaN where a run is missing."""
    scores = []
    for seed in study.seed_list:
        found = store.read(Cell(rule, environment, study.systems[rule], study.environments[environment], seed))
        returns = None if found is None else found.updates["return"].to_numpy()
        score = statistics.mean_return if measure == "mean" else statistics.end_return
        scores.append(math.nan if returns is None else score(returns))
    return np.array(scores)


def _compared(
    kind: str, environment: str, rule: str, measure: str, differences: Array, baseline: Array, num_seeds: int
) -> Comparison:
    mean, n = float(differences.mean()), len(differences)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1) * differences.std(ddof=1) / math.sqrt(n))
    p_value = math.nan
    if n == num_seeds:
        p_value = float(stats.ttest_1samp(differences, 0).pvalue) if half else float(mean == 0)
    return Comparison(kind, environment, rule, measure, n, float(baseline.mean()), mean, mean - half, mean + half, p_value)


def _corrected(family: Sequence[Comparison]) -> list[Comparison]:
    corrected, levels = statistics.holm([item.p_value for item in family], LEVEL)
    return [
        dataclasses.replace(item, corrected_p_value=float(p_value), **_interval(item, float(level)))
        for item, p_value, level in zip(family, corrected, levels, strict=True)
    ]


def _interval(item: Comparison, level: float) -> dict[str, float]:
    """At another level than the one that it has."""
    freedom = item.num_pairs - 1
    wider = float(stats.t.ppf(1 - level / 2, freedom) / stats.t.ppf(1 - LEVEL / 2, freedom))
    half = wider * (item.high - item.low) / 2
    return {"corrected_low": item.difference - half, "corrected_high": item.difference + half}
