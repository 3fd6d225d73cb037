"""Cells that RLlib's algorithms run, with and without workers of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import StudyError
from rl_agg.study.run.engine import run_study
from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.study import Budget, Cell, Environment, Study, System, Wrapper
from rllib_agg.study.runner import EpisodeReturns, RllibRunner

TINY = {"train_batch_size_per_learner": 128, "minibatch_size": 64, "num_epochs": 1, "lr": 1e-3}


def study(systems: dict[str, System] | None = None, budget: Budget | None = None, **environment: Any) -> Study:
    systems = systems or {"PPO": System("ray.rllib.algorithms.ppo:PPO", TINY)}
    environments = {"Walk": Environment("walks:rl_agg_tests/Walk-v0", **{"num_agents": 4, "network": "small", **environment})}
    return resolve(Study("walks", next(iter(systems)), systems, environments, budget=budget or Budget(updates=2)))


def run(cell: Cell) -> list[CellUpdate]:
    fractions: list[float] = []
    updates = runner_for(cell).run(cell, lambda update, fraction: fractions.append(fraction))
    assert fractions[-1] == 1.0
    assert len(fractions) == len(updates)
    return updates


def test_returns_are_raw_and_each_agents_own(ray_session: None) -> None:
    disturbed = [{"agents": [1], "reward_scale": 10.0}]
    (cell,) = study(unequal=disturbed, scored_agents=[0, 2, 3], wrappers=[Wrapper("walks:Negated")]).cells
    for update in run(cell):
        assert update.agent_returns == [6.0, 60.0, 6.0, 6.0]
        assert update.mean_return == 6.0
        assert update.episodes == pytest.approx(128 / 3, abs=4)
        assert update.env_steps == 128 * update.update


def test_updates_in_which_one_episode_or_none_ends(ray_session: None) -> None:
    short = {**TINY, "train_batch_size_per_learner": 2, "minibatch_size": 2}
    (cell,) = study({"PPO": System("ray.rllib.algorithms.ppo:PPO", short)}, Budget(updates=3), num_agents=1).cells
    updates = run(cell)
    assert [update.episodes for update in updates] == [0, 1, 1]
    assert [update.agent_returns for update in updates[1:]] == [[6.0], [6.0]]


@pytest.mark.parametrize(("budget", "num_updates"), [(Budget(env_steps=129), 2), (Budget(seconds=1e-6), 1)])
def test_budgets(budget: Budget, num_updates: int, ray_session: None) -> None:
    (cell,) = study(budget=budget).cells
    assert len(run(cell)) == num_updates


def test_what_aggregation_logs_is_recorded(ray_session: None) -> None:
    (cell,) = study({"R": System("rllib_agg:AggPPO", {**TINY, "aggregation": "r_weighted"})}).cells
    first, last = run(cell)
    assert last.scalars["agg/messages"] == 2 * first.scalars["agg/messages"] == 4 * 2 * 3  # agents, updates, minibatches
    assert last.scalars["agg/weight_min"] == last.scalars["agg/weight_max"] == pytest.approx(0.5)  # 1/A + 1/h


def test_the_network_is_the_papers(ray_session: None) -> None:
    (cell,) = study(network="medium").cells
    config = RllibRunner().config(cell)
    assert config.model_config["fcnet_hiddens"] == [85] * 4
    (cell,) = study(
        network="medium", systems={"a": System("rllib_agg:AggPPO", {"model_config": {"fcnet_hiddens": [7]}})}
    ).cells
    own = RllibRunner().config(cell).model_config
    assert (own["fcnet_hiddens"], own["fcnet_activation"]) == ([7], "tanh")
    assert EpisodeReturns in config.callbacks_class
    assert (config.seed, config.num_envs_per_env_runner) == (0, 4)


@pytest.mark.remote
def test_workers_of_its_own(ray_session: None, tmp_path: Path) -> None:
    """A3C's run in processes of their own, for which Ray sets CPUs aside."""
    settings = {"gradients_per_iteration": 4, "num_env_runners": 2, "rollout_fragment_length": 16}
    one = study({"A3C": System("rllib_agg:A3C", settings)}, network="small")
    (cell,) = one.cells
    assert sum(bundle["CPU"] for bundle in runner_for(cell).bundles(cell)) == 3
    settings |= {"num_env_runners": 1, "num_cpus_per_env_runner": 0.5}
    one = study({"A3C": System("rllib_agg:A3C", settings)}, network="small")
    assert run_study(one, tmp_path, workers=1) == [], Store(tmp_path).failure(one.cells[0])
    record = Store(tmp_path).read(one.cells[0])
    assert record is not None
    assert record.updates["return"].tolist() == [6.0, 6.0]
    first, second = record.updates["agg/messages"]
    assert first >= 4 <= second - first  # an iteration applies what has arrived once there are four


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {"a": System("ray.rllib.algorithms.ppo:PPO", {"lrr": 1})}}, "lrr"),
        ({"systems": {"a": System("rllib_agg:AggPPO", {"lrr": 1})}}, "AggPPOConfig has no setting 'lrr'"),
        ({"systems": {"a": System("rllib_agg:AggPPO", {"aggregation": "r_wighted"})}}, "did you mean 'r_weighted'"),
        ({"systems": {"a": System("rllib_agg:AggPPO", {"env": "x"})}}, "the study's key 'environments' sets it"),
        ({"systems": {"a": System("rllib_agg:AggPPO", {"env_config": {"n": 1}})}}, "the study's key 'env_kwargs' sets it"),
        ({"systems": {"a": System("rllib_agg:AggPPO", {"num_env_runners": 3})}}, "num_agents=4 cannot be spread evenly"),
        ({"systems": {"a": System("rllib_agg:AggPPO", {"model": {"fcnet_hiddens": [7]}})}}, "give 'model_config'"),
        ({"settings": {"model_config": "text"}}, "model_config must be a mapping, got 'text'"),
        ({"settings": {"num_env_runners": "two"}}, "num_env_runners must be an integer, got 'two'"),
        ({"settings": {"num_env_runners": -1}}, "num_env_runners must be a finite number >= 0, got -1"),
        ({"settings": {"gamma": "x"}}, "gamma must be a number or a list or null, got 'x'"),
        ({"systems": {"a": System("rllib_agg:AggPPO", {"num_epochs": None})}}, "num_epochs must be an integer, got null"),
        (
            {"systems": {"a": System("rllib_agg:AggPPO", {"model_config": {"fcnet_hidens": [8]}})}},
            "unknown model_config 'fcnet_hidens' .did you mean 'fcnet_hiddens'",
        ),
        ({"normalize": {}}, "PPO does not use 'normalize'"),
        ({"normalize": True}, "PPO does not use 'normalize'"),
        ({"systems": {"a": System("rllib_agg:AggPPO", policy="CnnPolicy")}}, "AggPPO does not use 'policy'"),
        ({"network": "tiny"}, "unknown network size 'tiny'"),
        ({"unequal": [{"agents": [4], "broken_sensors": True}]}, "agent 4 cannot be disturbed"),
        ({"wrappers": [Wrapper("gymnasium.wrappers:TimeLimitt")]}, "did you mean 'TimeLimit'"),
    ],
)
def test_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    cell = study(**changes).cells[0]
    with pytest.raises(StudyError, match=message):
        runner_for(cell).check(cell)


def test_an_unknown_setting_lists_those_that_can_be_set() -> None:
    cell = study({"PPO": System("ray.rllib.algorithms.ppo:PPO", {"lrr": 1})}).cells[0]
    with pytest.raises(StudyError) as caught:
        runner_for(cell).check(cell)
    listed = str(caught.value).partition("choose from ")[2].split(", ")
    assert {"lr", "train_batch_size_per_learner", "model_config"} <= set(listed)
    assert not [name for name in listed if name.startswith("_") or name == "sgd_minibatch_size"]


def test_settings_of_the_types_that_rllib_takes_pass() -> None:
    settings = {**TINY, "lr": [[0, 1e-3], [1000, 1e-4]], "num_cpus_per_env_runner": 0.5, "minibatch_size": None}
    cell = study({"PPO": System("rllib_agg:AggPPO", {**settings, "grad_clip": None})}).cells[0]
    runner_for(cell).check(cell)
