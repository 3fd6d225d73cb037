"""Reports over many cells stay quick to write and light to read."""

import time

import numpy as np
import pytest
from returns import keep

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.analysis.store import Store
from rl_agg.study.report.writing import write_report
from rl_agg.study.spec.study import Budget, Environment, System


def written(directory, tiny, systems, environments, seeds, updates):
    """Write the records of a study of this size, and its report; its CPU seconds and bytes."""
    study = tiny(
        baseline="s0",
        systems={f"s{number}": System("sb3_agg:AggPPO") for number in range(systems)},
        environments={f"e{number}": Environment(id="CartPole-v1", threshold=50.0) for number in range(environments)},
        seeds=seeds,
        budget=Budget(updates=updates),
    )
    rng = np.random.default_rng(0)
    store = Store(directory)
    with store.writing(study):
        for cell in study.cells:
            returns, times = np.cumsum(rng.normal(0.5, 5, updates)), np.cumsum(rng.uniform(0.4, 0.6, updates))
            scalars = [{"agg/messages": 80.0 * n, "agg/bytes": 1e5 * n * (1 + cell.seed)} for n in range(1, updates + 1)]
            numbers = range(1, updates + 1)
            rows = zip(numbers, times, returns, scalars, strict=True)
            keep(store, cell, [CellUpdate(n, 4096 * n, at, value, 5, [value] * 8, more) for n, at, value, more in rows])
    before = time.process_time()
    write_report(store.directory)
    return time.process_time() - before, (store.directory / "report.html").stat().st_size


def test_a_page_of_a_hundred_curves_is_light(tmp_path, tiny):
    _, size = written(tmp_path, tiny, systems=50, environments=2, seeds=1, updates=300)
    assert size < 5e6


@pytest.mark.slow
@pytest.mark.parametrize(("systems", "environments", "seeds"), [(10, 5, 20), (100, 10, 1)])
def test_a_thousand_cells(tmp_path, tiny, systems, environments, seeds):
    """In CPU seconds of one core, as others may be using the machine."""
    seconds, size = written(tmp_path, tiny, systems, environments, seeds, updates=200)
    assert seconds <= 10
    assert size <= 10e6
