"""What a running study prints, whatever its systems are called."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.errors import StudyError
from rl_agg.study.run.engine import run_study
from rl_agg.study.run.progress import StudyProgress
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.study import Budget, Environment, Study, System


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", ["[red]x[/]", "[/x]", "plain"])
def test_names_are_printed_as_they_are(name: str, terminal: bool) -> None:
    systems = {name: System("stable_baselines3:PPO")}
    study = resolve(Study("names", name, systems, {"CartPole-v1": Environment()}, seeds=2, budget=Budget(updates=1)))
    first, second = study.cells
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=200)
    with StudyProgress(console, [first, second]) as progress:
        progress.updated(first, 0.5, 12.34, 1.0)
        progress.finished(first)
        progress.failed(second, "KeyError: '[/]'")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"[1/2] {name} on CartPole-v1, seed 0: return 12.34" in shown
    assert f"[2/2] FAILED {name} on CartPole-v1, seed 1: KeyError: '[/]'" in shown


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_an_error(workers: int, tmp_path: Path) -> None:
    systems = {"it": System("stable_baselines3:PPO")}
    study = resolve(Study("workers", "it", systems, {"CartPole-v1": Environment()}, budget=Budget(updates=1)))
    with pytest.raises(StudyError, match=f"workers must be at least 1, got {workers}"):
        run_study(study, tmp_path / "out", workers=workers)


def test_the_best_so_far_is_reported_once_there_are_several_runs_of_several_systems(tiny: Callable[..., Study]) -> None:
    shown = io.StringIO()
    study = tiny(seeds=3)
    cells = {(cell.system_name, cell.seed): cell for cell in study.cells}
    order = [("stock", 0), ("loss", 0), ("stock", 1), ("loss", 1), ("stock", 2), ("loss", 2)]
    returns = [10.0, 20.0, 50.0, 30.0, math.nan, 55.0]
    with StudyProgress(Console(file=shown, width=200), study.cells) as progress:
        for key, value in zip(order, returns, strict=True):
            progress.updated(cells[key], 1.0, value, 2.0)
            progress.finished(cells[key])
    lines = shown.getvalue().splitlines()
    assert ["best so far" in line for line in lines] == [False, False, False, True, True, True]
    assert "best so far stock, 30.00 in 2 runs" in lines[3]
    assert "no episode finished yet · best so far stock, 30.00 in 2 runs" in lines[4]
    assert "best so far loss, 35.00 in 3 runs" in lines[5]


@pytest.mark.parametrize("terminal", [False, True])
def test_an_interrupt_clears_the_bars_and_says_that_it_stops(terminal: bool, tiny: Callable[..., Study]) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=200)
    with pytest.raises(KeyboardInterrupt), StudyProgress(console, tiny().cells):
        raise KeyboardInterrupt
    *_, last = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "Stopping after 0 s; finished cells are kept …" in last


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "no episode finished yet"),
        (math.inf, "returns are NaN or infinite"),
        (-3e33, "return \u22123.00e33"),
    ],
)
def test_returns_in_words(value: float, words: str, tiny: Callable[..., Study]) -> None:
    shown = io.StringIO()
    (cell, *_) = tiny().cells
    with StudyProgress(Console(file=shown, width=200), [cell]) as progress:
        progress.updated(cell, 1.0, value, 2.0)
        progress.finished(cell)
    assert f"{cell}: {words}" in shown.getvalue()


@pytest.mark.parametrize(
    ("returns", "episodes", "is_infinite"), [([math.nan], 0, False), ([math.inf], 0, True), ([math.nan], 2, True)]
)
def test_an_update_knows_whether_its_returns_are_lost(returns: list[float], episodes: int, is_infinite: bool) -> None:
    assert CellUpdate(1, 10, 1.0, math.nan, episodes, returns).is_infinite is is_infinite
