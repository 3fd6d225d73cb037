"""A study that cannot start says so and leaves its folder to the corrected one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_agg.study.errors import StudyError
from rl_agg.study.run.engine import run_study
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.study import Budget, Environment, Study, System


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (System("sb3_contrib:ARS"), "ARS has neither rollouts nor a replay buffer"),
        (System("stable_baselines3:PPO", {"n_epoch": 2}), "did you mean 'n_epochs'"),
        (System("sb3_agg:AggPPO", {"aggregation": "summ"}), "did you mean 'sum'"),
    ],
    ids=["no agents", "unknown setting", "unknown rule"],
)
def test_a_refused_study_does_not_take_the_folder(system: System, message: str, tmp_path: Path) -> None:
    environments = {"CartPole-v1": Environment(num_agents=2, settings={})}
    study = resolve(Study("refused", "it", {"it": system}, environments, budget=Budget(updates=1)))
    with pytest.raises(StudyError, match=message):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()
