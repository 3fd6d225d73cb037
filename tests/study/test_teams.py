"""Studies of teams: QMIX and its merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rl_agg.study.errors import StudyError
from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.loading import load_study, resolve
from rl_agg.study.spec.study import Budget, Environment, Study, System

QMIX = "rllib_agg:QMIX"
SMALL = {"train_batch_size_per_learner": 4, "rollouts_per_iteration": 1, "model_config": {"hidden_dim": 8}}
ROOT = Path(__file__).parents[2]
SPECS = sorted(
    [*(ROOT / "examples" / "studies").glob("pps_*.yaml"), *(ROOT / "benchmarks" / "replication").glob("pps_*.yaml")]
)


def team_study(**changes: Any) -> Study:
    parts: dict[str, Any] = {
        "name": "teams",
        "baseline": "none",
        "systems": {
            "none": System(QMIX),
            "a_pps": System(QMIX, {"parameter_sharing": "a_pps", "sharing_interval": 2}),
        },
        "environments": {"matrix/climbing": Environment(num_agents=4, settings=SMALL)},
        "budget": Budget(updates=3),
    }
    return resolve(Study(**(parts | changes)))


def test_updates_of_each_round() -> None:
    none, merged = (runner_for(cell).run(cell, lambda *_: None) for cell in team_study().cells)
    for updates in (none, merged):
        assert [update.env_steps for update in updates] == [4, 8, 12]
        for update in updates:
            assert len(update.agent_returns) == 2
            assert -30 <= update.mean_return <= 11
            assert update.episodes == 4
    assert none[-1].scalars["agg/bytes"] == 0
    assert merged[-1].scalars["agg/messages"] == 2 * merged[-1].scalars["agg/merges"] > 0


def test_greedy_evaluations_are_the_updates() -> None:
    pytest.importorskip("lbforaging", reason="lbforaging is not installed: pip install 'rl-agg[marl]'")
    settings = {**SMALL, "evaluation_interval": 3, "evaluation_duration": 6, "epsilon": 0.0}
    environment = Environment(num_agents=2, env_kwargs={"max_episode_steps": 5}, settings=settings)
    cell = team_study(environments={"lbf/Foraging-5x5-2p-1f-v3": environment}, budget=Budget(env_steps=50)).cells[0]
    updates = runner_for(cell).run(cell, lambda update, fraction: None)
    assert [update.env_steps <= 30 * (place + 1) for place, update in enumerate(updates)] == [True, True]
    assert updates[-1].env_steps >= 50
    for update in updates:
        assert update.episodes >= 6
        assert 0 <= update.mean_return <= 1
        assert update.scalars["agg/win_rate"] <= 1


def test_returns_between_evaluations_are_not_those_of_exploring() -> None:
    """A team that plays at random, and that learns too slowly to change its mind, plays one way when it is greedy."""
    settings = {**SMALL, "evaluation_interval": 1, "evaluation_duration": 4, "epsilon": 1.0, "lr": 1e-12}
    environments = {"matrix/climbing": Environment(num_agents=4, settings=settings)}
    greedy, exploring = (
        team_study(environments=environments, systems={"none": System(QMIX, own)}, budget=Budget(updates=6)).cells[0]
        for own in ({}, {"evaluation_interval": None})
    )
    returns = [[seen.mean_return for seen in runner_for(cell).run(cell, lambda *_: None)] for cell in (greedy, exploring)]
    assert len(set(returns[0])) == 1 < len(set(returns[1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {"none": System(QMIX, {"mixxer": "vdn"})}}, "unknown QMIXConfig setting 'mixxer'"),
        ({"systems": {"none": System(QMIX, {"seed": 1})}}, "the study's key 'seeds' sets it"),
        ({"environments": {"smax/4m": Environment(num_agents=2)}}, "unknown|not installed"),
        ({"environments": {"CartPole-v1": Environment(num_agents=2)}}, "a team's is called BACKEND/TASK"),
        ({"environments": {"matrix/climbing": Environment(num_agents=2, network="small")}}, "does not use 'network'"),
    ],
)
def test_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    cell = team_study(**changes).cells[0]
    with pytest.raises(StudyError, match=message):
        runner_for(cell).check(cell)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_papers_experiments_are_understood(path: Path) -> None:
    for quick in (False, True):
        study = load_study(path, quick=quick)
        assert {cell.system.system for cell in study.cells} == {QMIX}
        assert all(cell.budget.updates if quick else cell.budget.env_steps for cell in study.cells)


@pytest.mark.slow  # SMAX compiles each map
@pytest.mark.parametrize("path", [path for path in SPECS if "smac" not in path.stem], ids=lambda path: path.stem)
def test_the_papers_experiments_can_start(path: Path) -> None:
    pytest.importorskip("jaxmarl", reason="JaxMARL is not installed: pip install 'rl-agg[marl]'")
    pytest.importorskip("lbforaging", reason="lbforaging is not installed: pip install 'rl-agg[marl]'")
    for cell in load_study(path).cells:
        if cell.seed == 0:
            runner_for(cell).check(cell)
