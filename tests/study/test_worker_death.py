"""A cell that takes its whole worker process down is reported like any other failure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stable_baselines3 import PPO

from rl_agg.study.analysis.store import Store
from rl_agg.study.run.engine import run_study
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.study import Budget, Environment, Study, System


class DyingPPO(PPO):
    """Ends its process at the first training, as a crash in native code would."""

    def train(self) -> None:
        os._exit(3)


@pytest.mark.slow
def test_a_worker_that_dies_leaves_a_failure_and_the_others_finish(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)  # workers import the class by its path, as they would a user's
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
    systems = {"dies": System(f"{Path(__file__).stem}:DyingPPO"), "lives": System("stable_baselines3:PPO")}
    environments = {"CartPole-v1": Environment(num_agents=2, settings=settings)}
    study = resolve(Study("death", "lives", systems, environments, budget=Budget(updates=1)))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        failed = run_study(study, tmp_path, workers=1, console=Console(file=nowhere))
    assert [cell.system_name for cell in failed] == ["dies"]
    store = Store(tmp_path)
    text = store.failure(failed[0])
    assert text is not None
    assert "died" in text
    (lives,) = (cell for cell in study.cells if cell.system_name == "lives")
    assert store.read(lives) is not None
    assert store.failure(lives) is None
