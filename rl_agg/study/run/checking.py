"""Checks of a study's cells before anything runs."""

import math
import warnings
from collections.abc import Sequence

from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.study import Cell

Bundles = list[dict[str, float]]
"""Resources of a cell, see :meth:`~rl_agg.study.run.runners.Runner.bundles`."""


def check_each_combination(cells: Sequence[Cell]) -> dict[tuple[str, str], Bundles]:
    """Check one seed of each system and environment, so that a bad setting is reported before anything runs.

    :return: The resources of a cell, by system and environment.
    :raises StudyError: naming the first cell that cannot start.
    """
    bundles_of: dict[tuple[str, str], Bundles] = {}
    for cell in cells:
        if (combination := (cell.system_name, cell.environment_name)) in bundles_of:
            continue
        runner = runner_for(cell)
        with warnings.catch_warnings():
            # Stable-Baselines3 asks every environment for pictures, and Gymnasium warns of those that draw none
            warnings.filterwarnings("ignore", ".*is being initialised with render_mode")
            runner.check(cell)
        bundles_of[combination] = runner.bundles(cell)
    return bundles_of


def cpus(bundles: Bundles) -> int:
    """That a cell takes, its workers' included."""
    return math.ceil(sum(bundle.get("CPU", 0.0) for bundle in bundles))
