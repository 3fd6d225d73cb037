"""Checks of a study's cells before anything runs."""

import math
import re
import warnings
from collections.abc import Sequence

from rich.console import Console

from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.study import Cell
from rl_agg.study.terminal import say

Bundles = list[dict[str, float]]
"""Resources of a cell, see :meth:`~rl_agg.study.run.runners.Runner.bundles`."""
COLORS = re.compile(r"\x1b\[\d*m")
"""In Gymnasium's warnings."""


def check_each_combination(cells: Sequence[Cell], console: Console) -> dict[tuple[str, str], Bundles]:
    """Check one seed of each system and environment, so that a bad setting is reported before anything runs.

    :param console: Where to print warnings, each once.
    :return: The resources of a cell, by system and environment.
    :raises StudyError: naming the first cell that cannot start.
    """
    bundles_of: dict[tuple[str, str], Bundles] = {}
    said: set[str] = set()
    for cell in cells:
        if (combination := (cell.system_name, cell.environment_name)) in bundles_of:
            continue
        with warnings.catch_warnings(record=True) as caught:
            # Stable-Baselines3 asks every environment for pictures, and Gymnasium warns of those that draw none
            warnings.filterwarnings("ignore", ".*is being initialised with render_mode")
            runner = runner_for(cell)
            runner.check(cell)
            bundles_of[combination] = runner.bundles(cell)
        for text in (COLORS.sub("", str(warning.message)).removeprefix("WARN: ") for warning in caught):
            if text not in said:
                said.add(text)
                say(console, f"Warning, {cell}: {text}")
    return bundles_of


def cpus(bundles: Bundles) -> int:
    """That a cell takes, its workers' included."""
    return math.ceil(sum(bundle.get("CPU", 0.0) for bundle in bundles))
