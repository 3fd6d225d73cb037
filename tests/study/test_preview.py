"""``rl-agg compare --dry-run``: lists what would run, checks it, and writes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from returns import keep

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.analysis.store import Store
from rl_agg.study.cli import main
from rl_agg.study.spec.parsing import dumped
from rl_agg.study.spec.study import Study, System

Tiny = Callable[..., Study]


def written(path: Path, study: Study) -> str:
    path.write_text(dumped(study.to_mapping()))
    return str(path)


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_cells_are_listed_and_nothing_is_written(
    tmp_path: Path, tiny: Tiny, updates_of: Callable[..., list[CellUpdate]], capsys: pytest.CaptureFixture[str]
) -> None:
    study, store = tiny(), Store(tmp_path / "out")
    with store.writing(study):
        keep(store, study.cells[0], updates_of([1.0]))
        store.write_failure(study.cells[1], "it went wrong")
    spec = written(tmp_path / "spec.yaml", study)
    before = contents(tmp_path)
    for more, second in (([], "failed before"), (["--retry-failed"], "would run    ")):
        assert main(["compare", spec, "--out", str(tmp_path / "out"), "--dry-run", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-5:-1] == [
            "finished       stock on CartPole-v1, seed 0",
            f"{second}  loss on CartPole-v1, seed 0",
            "would run      stock on CartPole-v1, seed 1",
            "would run      loss on CartPole-v1, seed 1",
        ]
        assert lines[-1].startswith("4 cells: 1 finished, ")
    assert contents(tmp_path) == before


def test_what_compare_would_refuse_is_refused(
    tmp_path: Path, tiny: Tiny, updates_of: Callable[..., list[CellUpdate]], capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "out")
    with store.writing(tiny()):
        keep(store, tiny().cells[0], updates_of([1.0]))
    wrong = {"stock": System("sb3_agg:AggPPO", {"aggregation": "l_weigted"})}
    for folder, systems, words in (
        ("other", wrong, "unknown aggregation 'l_weigted' (did you mean 'l_weighted'?)"),
        ("out", {"stock": System("stable_baselines3:PPO", {"gamma": 0.9})}, "holds another study ('tiny')"),
    ):
        spec = written(tmp_path / "spec.yaml", tiny(systems=systems))
        assert main(["compare", spec, "--out", str(tmp_path / folder), "--dry-run"]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_a_warning_is_printed_once_and_in_one_line(
    tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sb3_agg.study._model", lambda cell, env: warnings.warn("mind the \x1b[33mgap", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["compare", written(tmp_path / "s.yaml", tiny()), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert [line for line in shown.out.splitlines() if "gap" in line] == [
        "Warning, stock on CartPole-v1, seed 0: mind the gap"
    ]
    assert "gap" not in shown.err
