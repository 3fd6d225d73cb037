"""The studies that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.loading import load_study

ROOT = Path(__file__).parents[2]
SPECS = sorted([*(ROOT / "examples" / "studies").glob("*.yaml"), *(ROOT / "benchmarks" / "replication").glob("*.yaml")])
UNEQUAL = sorted((ROOT / "examples" / "studies" / "unequal").glob("*.yaml"))  # which have the same systems


@pytest.mark.parametrize(
    "path",
    [
        *(path for path in SPECS if not path.stem.startswith("pps")),
        *(pytest.param(path, marks=[] if path.stem == "tasks" else pytest.mark.slow) for path in UNEQUAL),
    ],
    ids=lambda path: path.stem if path.parent.name == "studies" else f"{path.parent.name}_{path.stem}",
)
def test_every_system_of_a_study_can_be_built(path: Path) -> None:
    """Those about teams are tested with the teams."""
    if "envpool/" in path.read_text(encoding="utf-8"):
        pytest.importorskip("envpool", reason="the extra envpool is not installed")
    study = load_study(path)
    assert 0 < len(load_study(path, quick=True).cells) <= len(study.cells)
    # Every system and every environment once, not every combination
    cells = {cell.system_name: cell for cell in study.cells} | {cell.environment_name: cell for cell in study.cells}
    for cell in dict.fromkeys(cells.values()):
        runner = runner_for(cell)
        runner.check(cell)  # raises what is wrong
        assert sum(bundle.get("CPU", 0) for bundle in runner.bundles(cell)) >= 1
