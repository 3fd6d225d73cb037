"""Results of several machines in one folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from returns import keep

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.analysis.store import Store
from rl_agg.study.cli import main
from rl_agg.study.errors import StudyError
from rl_agg.study.run.merging import merge_studies
from rl_agg.study.spec.study import Budget, Study, System

Tiny = Callable[..., Study]
UpdatesOf = Callable[..., list[CellUpdate]]


def part(folder: Path, study: Study, updates_of: UpdatesOf, values: dict[str, float]) -> Store:
    """A folder with the cells that have a value finished."""
    store = Store(folder)
    with store.writing(study):
        for cell in study.cells:
            if str(cell) in values:
                keep(store, cell, updates_of([values[str(cell)]]))
    return store


def cell_name(system: str, seed: int) -> str:
    return f"{system} on CartPole-v1, seed {seed}"


def test_the_parts_make_the_whole(tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf) -> None:
    first = part(tmp_path / "a", tiny(seeds=[0]), updates_of, {cell_name("stock", 0): 1.0, cell_name("loss", 0): 2.0})
    second = part(tmp_path / "b", tiny(seeds=[1, 4]), updates_of, {cell_name("stock", 1): 3.0, cell_name("loss", 4): 4.0})
    other = {"stock": System("stable_baselines3:PPO"), "sum": System("sb3_agg:AggPPO", {"aggregation": "sum"})}
    third = part(
        tmp_path / "c", tiny(systems=other, seeds=1), updates_of, {cell_name("stock", 0): 9.0, cell_name("sum", 0): 5.0}
    )
    failed = next(cell for cell in second.study().cells if str(cell) == cell_name("loss", 1))
    second.write_failure(failed, "it went wrong")

    united = merge_studies([first.directory, second.directory, third.directory], tmp_path / "all")
    store = Store(tmp_path / "all")
    assert store.study() == united
    assert list(united.systems) == ["stock", "loss", "sum"]
    assert united.seed_list == [0, 1, 4]
    records = {str(cell): store.read(cell) for cell in united.cells}
    found = {name: record.updates["return"].tolist() for name, record in records.items() if record is not None}
    assert found == {
        cell_name("stock", 0): [1.0],  # the first folder's
        cell_name("loss", 0): [2.0],
        cell_name("stock", 1): [3.0],
        cell_name("loss", 4): [4.0],
        cell_name("sum", 0): [5.0],
    }
    assert store.failure(failed) == "it went wrong"
    for name, record in records.items():
        if record is not None and name == cell_name("loss", 4):
            (cell,) = (cell for cell in united.cells if str(cell) == name)
            original = second.read(cell)
            assert original is not None
            pd.testing.assert_frame_equal(record.updates, original.updates)
            assert record.metadata == original.metadata


def test_what_is_there_stays(tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf) -> None:
    kept = part(tmp_path / "all", tiny(seeds=2), updates_of, {cell_name("stock", 1): 7.0})
    added = part(tmp_path / "a", tiny(seeds=1), updates_of, {cell_name("stock", 0): 1.0})
    for _ in range(2):
        united = merge_studies([added.directory], kept.directory)
        assert united.seed_list == [0, 1]
        returns = {str(cell): kept.read(cell) for cell in united.cells if kept.read(cell) is not None}
        assert set(returns) == {cell_name("stock", 0), cell_name("stock", 1)}


def test_the_target_comes_first_and_a_threshold_is_not_lost(tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf) -> None:
    pole = tiny().environments["CartPole-v1"]
    bare = {"CartPole-v1": dataclasses.replace(pole, threshold=None)}
    kept = part(tmp_path / "all", tiny(name="kept", baseline="loss", environments=bare), updates_of, {})
    added = part(tmp_path / "a", tiny(), updates_of, {})
    for _ in range(2):
        united = merge_studies([added.directory], kept.directory)
        assert (united.name, united.baseline) == ("kept", "loss")
        assert united.environments["CartPole-v1"].threshold == pole.threshold


def test_different_numbers_of_one_run_are_reported(
    tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf, capsys: pytest.CaptureFixture[str]
) -> None:
    first = part(tmp_path / "a", tiny(), updates_of, {cell_name("stock", 0): 1.0, cell_name("stock", 1): 2.0})
    second = part(tmp_path / "b", tiny(), updates_of, {cell_name("stock", 0): 1.0, cell_name("stock", 1): 9.0})
    assert main(["merge", str(first.directory), str(second.directory), "--out", str(tmp_path / "all")]) == 0
    warning = f"1 of them differ between the folders, for example {cell_name('stock', 1)}; the first ones were kept"
    assert warning in capsys.readouterr().out
    assert main(["merge", str(first.directory), "--out", str(tmp_path / "other")]) == 0
    assert "the first ones" not in capsys.readouterr().out


def test_one_name_for_different_things_is_an_error(tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf) -> None:
    first = part(tmp_path / "a", tiny(), updates_of, {})
    other = {"stock": System("stable_baselines3:PPO", {"gamma": 0.9}), "loss": tiny().systems["loss"]}
    second = part(tmp_path / "b", tiny(systems=other), updates_of, {})
    with pytest.raises(
        StudyError,
        match=re.escape("b has another system 'stock': settings.gamma is 0.9 there and not set here; rename one of"),
    ):
        merge_studies([first.directory, second.directory], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    with pytest.raises(StudyError, match="holds no study"):
        merge_studies([tmp_path / "nothing"], tmp_path / "all")


def test_numbers_written_differently_are_different_things(tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf) -> None:
    """A cell's name has the hash of how they are written: one folder's runs would not be found."""
    whole, point = ({"stock": System("stable_baselines3:PPO", {"gamma": value}), "loss": System("a:B")} for value in (1, 1.0))
    first = part(tmp_path / "a", tiny(systems=whole, seeds=[0]), updates_of, {})
    second = part(tmp_path / "b", tiny(systems=point, seeds=[1]), updates_of, {})
    with pytest.raises(StudyError, match=re.escape("b has another system 'stock': settings.gamma is 1.0 there and 1 here;")):
        merge_studies([first.directory, second.directory], tmp_path / "all")


def test_unrelated_studies_are_not_merged(
    tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf, capsys: pytest.CaptureFixture[str]
) -> None:
    first = part(tmp_path / "a", tiny(), updates_of, {})
    others = {"sum": System("sb3_agg:AggPPO", {"aggregation": "sum"})}
    second = part(tmp_path / "b", tiny(name="other", baseline="sum", systems=others), updates_of, {})
    poles = {"Acrobot-v1": tiny().environments["CartPole-v1"]}
    third = part(tmp_path / "c", tiny(baseline="sum", systems=others, environments=poles), updates_of, {})
    for unrelated in (second, third):
        assert main(["merge", str(first.directory), str(unrelated.directory), "--out", str(tmp_path / "all")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert (
            f"{unrelated.directory} ({unrelated.study().name!r}: sum on {', '.join(unrelated.study().environments)})" in error
        )
        assert "is no part of 'tiny' (stock, loss on CartPole-v1)" in error
        assert not (tmp_path / "all").exists()


def test_other_settings_of_an_environment_are_named(tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf) -> None:
    first = part(tmp_path / "a", tiny(), updates_of, {})
    second = part(tmp_path / "b", tiny(budget=Budget(updates=5)), updates_of, {})
    with pytest.raises(
        StudyError, match=re.escape("b has another environment 'CartPole-v1': budget.updates is 5 there and 3 here;")
    ):
        merge_studies([first.directory, second.directory], tmp_path / "all")


def test_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nothing to merge"):
        merge_studies([], tmp_path / "all")


def test_as_a_command(tmp_path: Path, tiny: Tiny, updates_of: UpdatesOf, capsys: pytest.CaptureFixture[str]) -> None:
    stores = [
        part(tmp_path / name, tiny(seeds=[seed]), updates_of, {cell_name("stock", seed): 1.0})
        for seed, name in enumerate("ab")
    ]
    status = main(["merge", *(str(store.directory) for store in stores), "--out", str(tmp_path / "all")])
    assert status == 0
    assert "2 of 4 cells are finished" in capsys.readouterr().out
    assert (tmp_path / "all" / "report.html").exists()
