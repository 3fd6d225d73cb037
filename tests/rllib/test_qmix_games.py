"""Who finds the best cell of the QTRAN paper's game, which no monotonic mixer can express, at full exploration."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rllib.qmix_runs import built, tiny


def greedy_return(updates: int, **training: Any) -> float:
    """Of the greedy team after so many gradient steps, on 64 random joint actions for every 16."""
    settings = {"epsilon": 1.0, "lr": 3e-3, "updates_per_episode": 0.25, "train_batch_size_per_learner": 64, **training}
    config = tiny("matrix/nonmonotonic", rollouts_per_iteration=16, **settings)
    config.rl_module(model_config={"hidden_dim": 16, "hypernet_dim": 16, "central_dim": 32})
    algorithm = built(config, updates // 16)
    evaluated = algorithm.evaluate()["env_runners"]
    assert algorithm.server.num_updates == updates
    algorithm.stop()
    assert evaluated["episode_return_min"] == evaluated["episode_return_max"]
    return float(evaluated["episode_return_mean"])


@pytest.mark.slow
@pytest.mark.parametrize("training", [{"mixer": "qmix"}, {"mixer": "vdn"}])
def test_monotonic_values_prefer_what_is_better_on_average(training: dict[str, Any], ray_session: None) -> None:
    assert greedy_return(320, **training) == 0


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["central", "optimistic"])
def test_weighted_qmix_finds_the_best_cell(weighting: str, ray_session: None) -> None:
    assert greedy_return(320, weighting=weighting, weighting_alpha=0.1) == 8


@pytest.mark.slow
def test_qtran_finds_the_best_cell(ray_session: None) -> None:
    assert greedy_return(640, mixer="qtran", lambda_nopt=1.0) == 8
