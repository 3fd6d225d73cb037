"""A package of one's own registers a runner, as the hosts do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rl_agg.study.analysis.store import Store
from rl_agg.study.cli import main
from rl_agg.study.errors import StudyError
from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.loading import load_study
from rl_agg.study.spec.systems import catalogues

TOY = '''
from rl_agg.study.analysis.records import CellUpdate


class Trainer:
    """Earns its step size more in each update."""

    step = 1.0


class Faster(Trainer):
    step = 2.0


class Runner:
    packages = ("toy",)

    def check(self, cell):
        pass

    def bundles(self, cell):
        return [{"CPU": 1.0}]

    def run(self, cell, on_update):
        from rl_agg.study.run.cells import import_system

        step, updates = import_system(cell).step, []
        for number in range(1, cell.budget.updates + 1):
            value = step * number + cell.seed
            updates.append(CellUpdate(number, 10 * number, float(number), value, 1, [value]))
            on_update(updates[-1], number / cell.budget.updates)
        return updates


class FasterRunner(Runner):
    """More specific than :class:`Runner`."""
'''
SYSTEMS = """
systems:
  Slow:
    {gate: every, codec: identity, rule: mean, payload: gradients, schedule: every_step, paper: none, system: "toy:Trainer"}
"""
ENTRY_POINTS = """
[rl_agg.study.runners]
toy.Trainer = toy:Runner
toy.Faster = toy:FasterRunner
"""
SPEC = """
name: toys
baseline: slow
systems: {slow: {system: "toy:Trainer"}, fast: {system: "toy:Faster"}, other: {system: "collections:Counter"}}
environments: {anything: {num_agents: 1}}
seeds: 2
budget: {updates: 3}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package by hand, and write a study of its systems."""
    site = tmp_path / "site"
    files = {
        "toy/__init__.py": TOY,
        "toy/systems.yaml": SYSTEMS,
        "toy-0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n",
        "toy-0.1.dist-info/entry_points.txt": ENTRY_POINTS,
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.replace(', other: {system: "collections:Counter"}', ""))
    (tmp_path / "other.yaml").write_text(SPEC)
    return spec


def test_a_study_of_another_packages_trainer(toy: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = toy.parent / "out"
    assert main(["compare", str(toy), "--out", str(out), "--workers", "1"]) == 0
    assert "fast" in capsys.readouterr().out
    store = Store(out)
    records = {str(cell): store.read(cell) for cell in store.study().cells}
    returns = {name: record.updates["return"].tolist() for name, record in records.items() if record is not None}
    assert returns["fast on anything, seed 1"] == [3.0, 5.0, 7.0]
    assert len(returns) == 4
    assert all(record is not None and record.metadata["versions"]["toy"] == "0.1" for record in records.values())
    assert "fast" in (out / "report.md").read_text()


def test_the_most_specific_runner_is_chosen(toy: Path) -> None:
    slow, fast = (runner_for(cell) for cell in load_study(toy).cells[:2])
    assert [type(slow).__name__, type(fast).__name__] == ["Runner", "FasterRunner"]


def test_a_class_without_a_runner_is_an_error(toy: Path) -> None:
    other = load_study(toy.parent / "other.yaml").cells[2]
    with pytest.raises(StudyError, match=r"no runner is registered for collections:Counter; .* toy\.Faster, toy\.Trainer"):
        runner_for(other)


def test_its_systems_are_listed(toy: Path) -> None:
    assert [list(catalogue.systems) for catalogue in catalogues() if "Slow" in catalogue.systems] == [["Slow"]]
