"""Studies of algorithms whose agents run whole episodes."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import StudyError
from rl_agg.study.run.engine import run_study
from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.study import Budget, Environment, Study, System
from rllib_agg.study.population import EpisodicRunner

EXAMPLES = Path(__file__).parents[2] / "examples"
GATED = {"communication": "espc", "expected_messages": 2, "fitness": "raw"}


def grid_study(**changes: Any) -> Study:
    parts: dict[str, Any] = {
        "name": "grid",
        "baseline": "DQL",
        "systems": {
            "DQL": System("rllib_agg:DQL", {"lr": 1.0}),
            "ES": System("rllib_agg:ES", {**GATED, "model_config": {"fcnet_hiddens": [4]}}),
        },
        "environments": {"rl_agg/SimpleGrid-v0": Environment(num_agents=4)},
        "seeds": 1,
        "budget": Budget(updates=3),
    }
    return resolve(Study(**(parts | changes)))


@pytest.mark.filterwarnings("ignore:communication='espc' got a negative return")
@pytest.mark.remote
def test_records_of_each_update(ray_session: None, tmp_path: Path) -> None:
    study = grid_study()
    assert run_study(study, str(tmp_path), workers=1) == []
    store = Store(tmp_path)
    records = {cell.system_name: store.read(cell).updates for cell in study.cells}
    for updates in records.values():
        assert updates["update"].tolist() == [1, 2, 3]
        assert [len(returns) for returns in updates["agent_returns"]] == [4, 4, 4]
        assert (updates["return"] == [sum(returns) / 4 for returns in updates["agent_returns"]]).all()
        assert (updates["wall_time"].diff().dropna() > 0).all()
    assert (records["DQL"]["agg/mu_frequency"] == 1).all()
    assert (records["DQL"]["agg/mu_size"] % 9 / 9 * 4 % 1 == 0).all()
    assert records["ES"]["agg/bytes"].iloc[-1] == 6 * records["ES"]["agg/messages"].iloc[-1]


def test_an_infinite_return_is_in_no_mean() -> None:
    report = SimpleNamespace(agents=np.arange(5), returns=np.array([1.0, 2.0, np.inf, 3.0, 9.0]))
    algorithm: Any = SimpleNamespace(report=report, config=SimpleNamespace(population=4))
    result: dict[str, Any] = {
        "num_env_steps_sampled_lifetime": 0,
        "env_runners": {},
        "learners": {"default_policy": {"agg": {}}},
    }
    assert EpisodicRunner().observe(algorithm, result).mean_return == 2.0


def test_a_budget_of_steps() -> None:
    cell = grid_study(budget=Budget(env_steps=900)).cells[0]
    fractions: list[float] = []
    updates = runner_for(cell).run(cell, lambda update, fraction: fractions.append(fraction))
    assert updates[-1].env_steps >= 900 > updates[-2].env_steps
    assert fractions[-1] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"systems": {"DQL": System("rllib_agg:DQL", {"lrr": 1.0})}},
            "unknown DQLConfig setting 'lrr' .did you mean 'lr'",
        ),
        ({"systems": {"DQL": System("rllib_agg:DQL", {"num_env_runners": 2})}}, "unknown DQLConfig setting 'num_env_runners'"),
        ({"systems": {"DQL": System("rllib_agg:DQL", {"env_config": {}})}}, "the study's key 'env_kwargs' sets it"),
        ({"systems": {"DQL": System("rllib_agg:ES", {"seed": 1})}, "baseline": "DQL"}, "the study's key 'seeds' sets it"),
        ({"environments": {"CartPole-v1": Environment(num_agents=4)}}, "a table needs Discrete observations"),
        ({"environments": {"rl_agg/SimpleGrid-v0": Environment(num_agents=4, network="small")}}, "does not use 'network'"),
    ],
)
def test_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    cell = grid_study(**changes).cells[0]
    with pytest.raises(StudyError, match=message):
        runner_for(cell).check(cell)


def test_chance_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["espc_chance.py"])
    runpy.run_path(str(EXAMPLES / "espc_chance.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 52
    assert lines[26].split() == ["25", "0.500", "0.500", "0.500"]
