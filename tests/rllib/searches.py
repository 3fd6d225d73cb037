"""What Ray Tune makes of a config that holds a search, with its processes and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle, tune
from ray.tune.search.variant_generator import generate_variants

Results = list[dict[str, Any]]
Search = Callable[[type, Any, Path], Results]


def by_tune(algorithm: type, config: Any, folder: Path) -> Results:
    """Results of the second iteration of every trial."""
    run_config = tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(folder))
    results = tune.Tuner(algorithm, param_space=config, run_config=run_config).fit()
    assert not results.errors
    return [dict(result.metrics or {}) for result in results]


def in_this_process(algorithm: type, config: Any, folder: Path) -> Results:
    """The same from the dicts that Tune sends to its trials, each of which would start a process."""
    results = []
    for _, variant in generate_variants(config.to_dict()):
        trial = algorithm(config=cloudpickle.loads(cloudpickle.dumps(variant)))
        results.append([trial.train() for _ in range(2)][-1])
        trial.stop()
    return results


each_search = pytest.mark.parametrize("search", [in_this_process, pytest.param(by_tune, marks=pytest.mark.slow)])
