"""The benchmark of rules among unequal agents: its order, what it continues, and how it compares."""

from __future__ import annotations

import csv
import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rl_agg.study.analysis.records import encoded
from rl_agg.study.analysis.store import Store
from rl_agg.study.run.provenance import provenance
from rl_agg.study.spec.study import Cell
from tests.study.returns import keep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def unequal(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("unequal")


def comparison(unequal: Any, differences: list[float], num_seeds: int = 10) -> Any:
    rows = np.array(differences)
    return unequal._compared("equal", "CartPole-v1", "krum", "mean", rows, np.full(len(rows), 200.0), num_seeds)


def test_a_comparison_by_hand(unequal: Any) -> None:
    """Differences 1 to 10: mean 5.5, standard deviation 3.028; Student's 2.5 % point with nine degrees of freedom is 2.262."""
    found = comparison(unequal, list(range(1, 11)))
    half = 2.262157 * 3.027650 / math.sqrt(10)
    assert (found.low, found.high) == pytest.approx((5.5 - half, 5.5 + half), rel=1e-5)
    t = 5.5 / (3.027650 / math.sqrt(10))
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 9), rel=1e-4)
    assert found.share == pytest.approx(5.5 / 480)
    assert math.isnan(comparison(unequal, [1.0, 2.0]).p_value)
    assert comparison(unequal, [0.0] * 10).p_value == 1
    assert comparison(unequal, [2.0] * 10).p_value == 0


def test_outcomes_are_those_of_the_protocol(unequal: Any) -> None:
    """24 is 5 % of CartPole's range. Three differences make a family: the least p-value is tested at a third of 5 %."""
    noise = np.linspace(-1, 1, 10)
    family = [comparison(unequal, list(mean + spread * noise)) for mean, spread in ((50, 40), (-90, 20), (3, 20), (10, 60))]
    incomplete = comparison(unequal, [5.0, 6.0, 7.0])
    found = unequal._corrected([*family, incomplete])
    assert [item.outcome for item in found] == ["win", "loss", "tie", "open", "3 seeds"]
    least = found[1]
    freedom, level = 9, 0.05 / 4
    half = (least.high - least.low) / 2 * stats.t.ppf(1 - level / 2, freedom) / stats.t.ppf(0.975, freedom)
    assert (least.corrected_low, least.corrected_high) == pytest.approx((-90 - half, -90 + half))
    assert least.corrected_p_value == pytest.approx(4 * family[1].p_value)


def test_what_is_committed_can_be_reported(unequal: Any, tmp_path: Path, updates_of: Any, capsys: Any) -> None:
    study = unequal._study("liars", "selection")
    store = Store(tmp_path / "selection" / "liars")
    with store.writing(study):
        for number, seed in enumerate(study.seed_list):
            for rule, shift in (("mean", 0.0), ("agreement", 100.0 + number), ("krum", -1.0)):
                if rule == "krum" and number > 3:
                    continue
                cell = Cell(rule, "CartPole-v1", study.systems[rule], study.environments["CartPole-v1"], seed)
                keep(store, cell, updates_of([10.0 * number + shift, 50.0 + shift]))
    unequal.main(["report", "--out", str(tmp_path)])
    with (tmp_path / "selection.csv").open() as file:
        rows = {(row["rule"], row["measure"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {(rule, measure) for rule in ("agreement", "krum") for measure in ("mean", "end")}
    agreement = rows["agreement", "mean"]
    assert (float(agreement["difference"]), agreement["outcome"], agreement["num_pairs"]) == (104.5, "win", "10")
    assert float(agreement["baseline"]) == pytest.approx(np.mean([(10 * number + 50) / 2 for number in range(10)]))
    assert rows["krum", "mean"]["outcome"] == "4 seeds"
    assert "win" in capsys.readouterr().out


def test_runs_are_made_in_order_and_only_once(
    unequal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates_of: Any
) -> None:
    made: list[str] = []

    def train(cell: Cell, on_update: Any) -> bytes:
        made.append(str(cell))
        if cell.system_name == "krum":
            raise RuntimeError
        return encoded(cell, updates_of([1.0]), provenance())

    monkeypatch.setattr(unequal, "train", train)
    arguments = ["run", "--out", str(tmp_path), "--kinds", "equal", "tasks", "--rules", "mean", "krum"]
    unequal.main([*arguments, "--environments", "CartPole-v1", "GoalReacher"])
    assert len(made) == 2 * 2 * 10
    assert made[:3] == [
        "mean on CartPole-v1, seed 10000",
        "krum on CartPole-v1, seed 10000",
        "mean on CartPole-v1, seed 10100",
    ]
    assert made[-1] == "krum on GoalReacher, seed 10900"
    unequal.main([*arguments, "--environments", "CartPole-v1", "GoalReacher"])
    assert len(made) == 40  # what failed is not tried again
    unequal.main([*arguments, "--environments", "CartPole-v1", "--retry-failed"])
    assert made[40:] == [f"krum on CartPole-v1, seed {seed}" for seed in range(10000, 11000, 100)]
