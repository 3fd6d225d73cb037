"""A cell that takes its whole worker process down is reported like any other failure."""

from __future__ import annotations

import os
import signal
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


class KilledOncePPO(PPO):
    """Its process is killed the first time that it trains, as by a machine that is short of memory."""

    def __init__(self, *args: Any, marker: str, **kwargs: Any) -> None:
        self.marker = Path(marker)
        super().__init__(*args, **kwargs)

    def train(self) -> None:
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().train()


@pytest.mark.slow
def test_a_worker_that_dies_is_started_once_more_and_the_others_finish(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)  # workers import the class by its path, as they would a user's
    module = Path(__file__).stem
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
    systems = {
        "dies": System(f"{module}:DyingPPO"),
        "is killed once": System(f"{module}:KilledOncePPO", {"marker": str(tmp_path / "killed")}),
        "lives": System("stable_baselines3:PPO"),
    }
    environments = {"CartPole-v1": Environment(num_agents=2, settings=settings)}
    study = resolve(Study("death", "lives", systems, environments, budget=Budget(updates=1)))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        failed = run_study(study, tmp_path / "out", workers=1, console=Console(file=nowhere))
    assert [cell.system_name for cell in failed] == ["dies"]
    store = Store(tmp_path / "out")
    text = store.failure(failed[0])
    assert text is not None
    assert "died" in text
    assert (tmp_path / "killed").exists()
    for cell in study.cells:
        if cell not in failed:
            assert store.read(cell) is not None
            assert store.failure(cell) is None
