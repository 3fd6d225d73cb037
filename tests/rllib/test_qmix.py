"""QMIX on RLlib: the two-step game, who runs what, what is counted."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle, tune
from ray.rllib.core.columns import Columns

from rllib_agg import QMIX
from rllib_agg.envs.team.interface import TeamView
from rllib_agg.envs.team.registry import BACKENDS, register_team_env
from tests.rllib.qmix_runs import assert_equal, built, parameters, tiny
from tests.rllib.results import MODULE, agg
from tests.rllib.searches import Search, each_search
from tests.rllib.team_worlds import make_corridor

cloudpickle.register_pickle_by_value(sys.modules[__name__])
cloudpickle.register_pickle_by_value(sys.modules[make_corridor.__module__])

pytestmark = pytest.mark.usefixtures("corridor")


@pytest.mark.parametrize(("mixer", "score"), [("qmix", 8.0), pytest.param("vdn", 7.0, marks=pytest.mark.slow)])
def test_the_two_step_game(mixer: str, score: float, ray_session: None) -> None:
    """At full exploration QMIX finds what VDN cannot express. Source: Rashid et al. (2018), section 5."""
    config = tiny(mixer=mixer, epsilon=1.0, lr=2e-3, updates_per_episode=0.5, train_batch_size_per_learner=32)
    config.training(rollouts_per_iteration=8, target_network_update_freq=50).rl_module(model_config={"hidden_dim": 32})
    algorithm = built(config, 80)
    evaluated = algorithm.evaluate()["env_runners"]
    assert evaluated["episode_return_mean"] == evaluated["episode_return_min"] == score
    algorithm.stop()


SHARING = {"parameter_sharing": "a_pps", "sharing_interval": 7}


@pytest.fixture(scope="module")
def remote(ray_session: None) -> Iterator[QMIX]:
    """Two runners, with a custom backend."""
    register_team_env("stroll", make_corridor)
    algorithm = tiny("stroll/corridor", num_env_runners=2, **SHARING).build_algo()
    yield algorithm
    algorithm.stop()
    del BACKENDS["stroll"]


@pytest.mark.remote
def test_the_number_of_runners_changes_nothing(remote: QMIX) -> None:
    local = tiny("stroll/corridor", **SHARING).build_algo()
    for _ in range(4):
        result, same = remote.train(), local.train()
        assert same["env_runners"]["episode_return_mean"] == result["env_runners"]["episode_return_mean"]
    assert_equal(parameters(local), parameters(remote))
    local.stop()
    assert agg(result)["updates"] == 32
    assert agg(result)["physical_bytes"] > 0


@pytest.mark.remote
def test_killed_runner_changes_nothing(remote: QMIX) -> None:
    before = remote.server.num_rounds
    pids = remote.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(pids[0], signal.SIGKILL)
    remote.train()
    assert remote.server.num_rounds == before + 1
    other = built(tiny("stroll/corridor", **SHARING), before + 1)
    assert_equal(parameters(other), parameters(remote))
    other.stop()


def test_another_seed_is_another_run(ray_session: None) -> None:
    one, other = built(tiny(), 2), built(tiny().debugging(seed=4), 2)
    assert not all((value == parameters(other)[name]).all() for name, value in parameters(one).items())
    one.stop()
    other.stop()


def test_evaluation_leaves_no_trace(ray_session: None) -> None:
    config = tiny("walk/corridor", epsilon=1.0).evaluation(evaluation_interval=1, evaluation_duration=10)
    algorithm, plain = built(config), built(tiny("walk/corridor", epsilon=1.0))
    for _ in range(3):
        result, other = algorithm.train(), plain.train()
    evaluated = result["evaluation"]["env_runners"]
    assert evaluated["num_episodes"] == 12  # groups of 4
    assert 0 <= evaluated["win_rate"] <= 1
    assert algorithm.server.replay.num_added == 24
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == other["env_runners"]["num_env_steps_sampled_lifetime"]
    assert_equal(parameters(algorithm), parameters(plain))
    algorithm.stop()
    plain.stop()


def test_evaluation_explores_nothing(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = built(tiny("walk/corridor", epsilon=1.0).evaluation(evaluation_duration=10), 1)
    runner, module = algorithm.eval_env_runner or algorithm.env_runner, algorithm.get_module()
    env, begun = runner.agents.env, []

    def reset(*args: Any) -> TeamView:
        view = type(env).reset(env, *args)
        begun.append((view, len(env.actions)))
        return view

    monkeypatch.setattr(env, "reset", reset)
    algorithm.evaluate()
    assert len(begun) == 3  # groups of 4
    for view, place in begun:
        observations, masks = torch.from_numpy(view.observations), torch.from_numpy(view.masks)
        batch = {
            Columns.OBS: {"observations": observations, "masks": masks},
            Columns.STATE_IN: {"hidden": torch.zeros(4, 3, 8)},
        }
        out = module.forward_inference(batch)
        values, _ = module.networks(
            module.networks.arrange(observations[:, None], torch.full((4, 1, 3), -1)), module.networks.start(4)
        )
        greedy = values[:, 0].masked_fill(~masks, -torch.inf).argmax(-1)
        assert (greedy == torch.from_numpy(env.actions[place])).all()
        assert (greedy == out[Columns.ACTIONS]).all()
        assert out[Columns.STATE_OUT]["hidden"].shape == (4, 3, 8)
    with pytest.raises(ValueError, match="evaluation is without exploration"):
        runner.sample(num_episodes=1, explore=True)
    algorithm.stop()


def test_an_evaluations_mean_is_of_all_its_episodes(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = built(tiny("walk/corridor").evaluation(evaluation_duration=140))
    runner = algorithm.eval_env_runner or algorithm.env_runner
    groups = itertools.count()

    def play(*args: Any) -> Any:
        played = type(runner.agents).play_groups(runner.agents, *args)
        return [dataclasses.replace(each, returns=np.full_like(each.returns, next(groups))) for each in played]

    monkeypatch.setattr(runner.agents, "play_groups", play)
    evaluated = algorithm.evaluate()["env_runners"]
    assert (evaluated["num_episodes"], evaluated["episode_return_mean"]) == (140, 17.0)  # 35 groups of 4
    algorithm.stop()


def test_greedy_play_acts_by_the_average_of_gradient_steps(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = built(tiny(average_decay=0.75))
    learner = algorithm.learner
    wanted = {name: value.astype(np.float64) for name, value in learner.team.weights().items()}

    def learn(episodes: Any) -> Any:
        measures = type(learner).learn(learner, episodes)
        for name, value in learner.team.weights().items():
            wanted[name] = 0.75 * wanted[name] + 0.25 * value
        return measures

    monkeypatch.setattr(learner, "learn", learn)
    for _ in range(2):
        algorithm.train()
    module = algorithm.get_module()
    assert algorithm.server.num_updates > 4
    for name, value in module.networks.state_dict().items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-6)
        assert (algorithm.server.broadcast().weights[name] != value.numpy()).any()  # exploration acts by the last ones
    whole = learner.team
    assert whole.greedy_networks is whole.average_networks
    algorithm.stop()
    plain = built(tiny(average_decay=None), 2)
    assert plain.learner.team.greedy_networks is plain.learner.team.networks
    for name, value in plain.get_module().networks.state_dict().items():
        np.testing.assert_array_equal(value, plain.server.broadcast().weights[name])
    plain.stop()


def test_epsilon_follows_environment_steps(ray_session: None) -> None:
    algorithm = built(tiny(epsilon=[[0, 1.0], [64, 0.2]]))
    found = [agg(algorithm.train())["epsilon"] for _ in range(5)]
    np.testing.assert_allclose(found, [0.8, 0.6, 0.4, 0.2, 0.2])
    algorithm.evaluate()
    assert algorithm.server.epsilon == pytest.approx(0.2)
    algorithm.stop()


def test_learning_waits_for_a_batch_and_for_steps(ray_session: None) -> None:
    algorithm = built(tiny(num_steps_sampled_before_learning_starts=40))
    updates = [agg(algorithm.train())["updates"] for _ in range(4)]
    assert updates == [0, 0, 8, 16]  # 16 steps in each
    algorithm.stop()


def test_broken_episodes_are_counted_and_not_learned_from(ray_session: None) -> None:
    algorithm = built(tiny("walk/corridor").environment("walk/corridor", env_config={"faults": "nan"}))
    for _ in range(4):
        result = algorithm.train()
    lost = agg(result)["lost_episodes"]
    assert 0 < lost < 32
    assert agg(result)["replay_episodes"] == 32 - lost
    assert agg(result)["skipped_updates"] == 0
    assert np.isfinite(result["env_runners"]["episode_return_mean"])
    algorithm.stop()


def test_an_evaluation_without_a_valid_episode_fails(ray_session: None) -> None:
    config = tiny("walk/corridor").environment("walk/corridor", env_config={"faults": "always nan"})
    algorithm = built(config.evaluation(evaluation_interval=1, evaluation_duration=4))
    with pytest.raises(RuntimeError, match=r"12 episodes broke down, or had .* there is nothing to evaluate"):
        algorithm.evaluate()
    algorithm.stop()


def test_an_environments_error_is_raised(ray_session: None) -> None:
    algorithm = built(tiny().environment("walk/corridor", env_config={"faults": "raises"}))
    with pytest.raises(RuntimeError, match="no power"):
        algorithm.train()
    algorithm.stop()


@pytest.mark.parametrize("sharing", ["none", "full", "a_pps", "rs_pps", "pp_pps"])
@pytest.mark.parametrize("mixer", ["qmix", None])
def test_one_agent(mixer: str | None, sharing: str, ray_session: None) -> None:
    config = tiny(mixer=mixer, parameter_sharing=sharing, sharing_interval=1)
    algorithm = built(config.environment("walk/corridor", env_config={"agents": 1}), 1)
    assert np.isfinite(algorithm.train()["learners"][MODULE]["total_loss"])
    assert algorithm.server.ledger.messages == 0
    algorithm.stop()


@each_search
def test_tune_searches_over_sharing(search: Search, ray_session: None, tmp_path: Path) -> None:
    config = tiny(parameter_sharing=tune.grid_search(["none", "a_pps"]), sharing_interval=2)
    results = search(QMIX, config, tmp_path)
    messages = {result["config"]["parameter_sharing"]: agg(result)["messages"] for result in results}
    assert messages == {"none": 0, "a_pps": 2 * 8}


def test_losses_are_logged_and_nothing_is_nan(ray_session: None) -> None:
    algorithm = built(tiny("walk/corridor", mixer="vdn"), 2)
    result = algorithm.train()
    learned = {name: value for name, value in result["learners"][MODULE].items() if name != "agg"}
    assert {"total_loss", "td_error_abs_mean", "q_taken_mean", "target_mean"} <= learned.keys()
    assert all(np.isfinite(value) for value in (*learned.values(), *agg(result).values())), learned
    assert 0 <= result["env_runners"]["win_rate"] <= 1
    algorithm.stop()
