"""QMIX on RLlib: the two-step game, who runs what, what is saved, what is counted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle, tune
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_agg import QMIX, QMIXConfig
from rllib_agg.envs import registry
from rllib_agg.envs.registry import BACKENDS, register_team_env
from rllib_agg.es import ESModule
from tests.rllib import team_worlds
from tests.rllib.team_worlds import make_corridor

cloudpickle.register_pickle_by_value(sys.modules[__name__])
cloudpickle.register_pickle_by_value(team_worlds)

MODULE = "default_policy"
SMALL = {"hidden_dim": 8, "hypernet_dim": 8}


@pytest.fixture(autouse=True)
def corridor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "walk", make_corridor)


def tiny(env: str = "matrix/two_step", num_env_runners: int = 0, **training: Any) -> QMIXConfig:
    settings = {"train_batch_size_per_learner": 8, "target_network_update_freq": 5, "rollouts_per_iteration": 2, **training}
    return (
        QMIXConfig()
        .environment(env)
        .env_runners(num_env_runners=num_env_runners, num_envs_per_env_runner=4)
        .rl_module(model_config=SMALL)
        .training(**settings)
        .fault_tolerance(delay_between_env_runner_restarts_s=0.0, env_runner_health_probe_timeout_s=20.0)
        .debugging(seed=3)
    )


def parameters(algorithm: QMIX) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in algorithm.learner.team.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value == other[name]).all(), name


def agg(result: dict[str, Any]) -> dict[str, Any]:
    logged: dict[str, Any] = result["learners"][MODULE]["agg"]
    return logged


def built(config: QMIXConfig, iterations: int = 0) -> QMIX:
    algorithm = config.build_algo()
    for _ in range(iterations):
        algorithm.train()
    return algorithm


@pytest.mark.parametrize(("mixer", "score"), [("qmix", 8.0), ("vdn", 7.0)])
def test_the_two_step_game(mixer: str, score: float, ray_session: None) -> None:
    """At full exploration QMIX finds what VDN cannot express. Source: Rashid et al. (2018), section 5."""
    config = tiny(mixer=mixer, epsilon=1.0, lr=2e-3, updates_per_episode=0.5, train_batch_size_per_learner=32)
    config.training(rollouts_per_iteration=8, target_network_update_freq=50).rl_module(model_config={"hidden_dim": 32})
    algorithm = built(config, 80)
    evaluated = algorithm.evaluate()["env_runners"]
    assert evaluated["episode_return_mean"] == evaluated["episode_return_min"] == score
    algorithm.stop()


@pytest.fixture(scope="module")
def remote(ray_session: None) -> Iterator[QMIX]:
    """Two runners."""
    algorithm = tiny(num_env_runners=2, parameter_sharing="a_pps", sharing_interval=7).build_algo()
    yield algorithm
    algorithm.stop()


def test_the_number_of_runners_changes_nothing(remote: QMIX) -> None:
    results = [remote.train() for _ in range(4)]
    for runners in (0, 1):
        other = tiny(num_env_runners=runners, parameter_sharing="a_pps", sharing_interval=7).build_algo()
        for result in results:
            same = other.train()
            assert same["env_runners"]["episode_return_mean"] == result["env_runners"]["episode_return_mean"]
        assert_equal(parameters(other), parameters(remote))
        other.stop()
    assert agg(results[-1])["updates"] == 32
    assert agg(results[-1])["physical_bytes"] > 0


def test_a_backend_of_ones_own_reaches_other_processes(monkeypatch: pytest.MonkeyPatch, ray_session: None) -> None:
    monkeypatch.setattr(registry, "BACKENDS", dict(BACKENDS))
    register_team_env("stroll", make_corridor)
    algorithm = built(tiny("stroll/corridor", num_env_runners=1), 1)
    assert algorithm.centre.num_rounds == 1
    algorithm.stop()


def test_another_seed_is_another_run(ray_session: None) -> None:
    one, other = built(tiny(), 2), built(tiny().debugging(seed=4), 2)
    assert not all((value == parameters(other)[name]).all() for name, value in parameters(one).items())
    one.stop()
    other.stop()


def test_killed_runner_changes_nothing(remote: QMIX) -> None:
    before = remote.centre.num_rounds
    pids = remote.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(pids[0], signal.SIGKILL)
    remote.train()
    assert remote.centre.num_rounds == before + 1
    other = built(tiny(parameter_sharing="a_pps", sharing_interval=7), before + 1)
    assert_equal(parameters(other), parameters(remote))
    other.stop()


@pytest.mark.parametrize("sharing", ["none", "full", "rs_pps"])
def test_checkpoint_goes_on_to_the_bit(sharing: str, ray_session: None, tmp_path: Path) -> None:
    config = tiny("walk/corridor", parameter_sharing=sharing, sharing_interval=5, updates_per_episode=0.7, td_lambda=0.5)
    algorithm = built(config, 4)
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    saved = parameters(algorithm)
    on = [algorithm.train() for _ in range(3)]
    evaluated = algorithm.evaluate()["env_runners"]["episode_return_mean"]
    restored = QMIX.from_checkpoint(path)
    assert_equal(parameters(restored), saved)
    again = [restored.train() for _ in range(3)]
    assert_equal(parameters(restored), parameters(algorithm))
    for one, other in zip(on, again, strict=True):
        for name in ("episode_return_mean", "win_rate", "num_env_steps_sampled_lifetime"):
            assert one["env_runners"][name] == other["env_runners"][name]
        assert agg(one) == agg(other)
    assert restored.evaluate()["env_runners"]["episode_return_mean"] == evaluated
    algorithm.restore_from_path(path)  # older than what is in place
    assert_equal(parameters(algorithm), saved)
    algorithm.train()
    assert agg(algorithm.train())["updates"] == agg(on[1])["updates"]
    restored.stop()
    algorithm.stop()


def test_checkpoint_without_the_replay(ray_session: None, tmp_path: Path) -> None:
    algorithm = built(tiny(store_buffer_in_checkpoints=False), 3)
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    restored = QMIX.from_checkpoint(path)
    assert_equal(parameters(restored), parameters(algorithm))
    assert len(restored.centre.replay) == 0
    assert restored.centre.num_steps == algorithm.centre.num_steps > 0
    assert agg(restored.train())["replay_episodes"] == 8
    restored.stop()
    algorithm.stop()


@pytest.mark.parametrize("setting", [{"capacity": 40}, {"dtype": "float16"}, {"max_gb": 1.0}])
def test_replay_settings_train(setting: dict[str, Any], ray_session: None) -> None:
    algorithm = built(tiny(replay_buffer_config=setting), 1)
    for name, value in setting.items():
        assert getattr(algorithm.config.replay_settings, name) == value
    assert agg(algorithm.train())["replay_episodes"] == 16
    algorithm.stop()


def test_faithful_trains(ray_session: None) -> None:
    algorithm = built(tiny().faithful().training(train_batch_size_per_learner=8), 2)
    assert algorithm.centre.replay.capacity == 5000
    assert algorithm.centre.num_updates == 16
    algorithm.stop()


def test_a_replay_that_does_not_fit_changes_nothing(ray_session: None, tmp_path: Path) -> None:
    saved = built(tiny(replay_buffer_config={"capacity": 8}), 2)
    path = saved.save_to_path(tmp_path / "checkpoint")
    other, untouched = (built(tiny(replay_buffer_config={"capacity": 80}).debugging(seed=4), 1) for _ in range(2))
    for restore in (lambda: other.restore_from_path(path), lambda: other.set_state(saved.get_state())):
        with pytest.raises(
            ValueError, match=r"another capacity.* restore it with .*or with store_buffer_in_checkpoints=False"
        ):
            restore()
        assert_equal(parameters(other), parameters(untouched))
    assert [agg(each.train()) for each in (other,)] == [agg(each.train()) for each in (untouched,)]
    assert_equal(parameters(other), parameters(untouched))
    without = built(tiny(replay_buffer_config={"capacity": 80}, store_buffer_in_checkpoints=False))
    without.restore_from_path(path)
    assert_equal(parameters(without), parameters(saved))
    assert len(without.centre.replay) == 0
    for each in (saved, other, untouched, without):
        each.stop()


def test_a_checkpoint_that_counts_masked_agents_is_gone_on_from(ray_session: None) -> None:
    algorithm = built(tiny(), 1)
    assert "masked_agents" not in agg(algorithm.train())
    state = algorithm.get_state()
    state["centre"]["num_masked"] = 0  # until 0.1
    algorithm.set_state(state)
    assert agg(algorithm.train())["updates"] == 24
    algorithm.stop()


def test_evaluation_explores_nothing_and_leaves_no_trace(ray_session: None) -> None:
    config = tiny("walk/corridor", epsilon=1.0).evaluation(evaluation_interval=1, evaluation_duration=10)
    algorithm, plain = built(config), built(tiny("walk/corridor", epsilon=1.0))
    for _ in range(3):
        result, other = algorithm.train(), plain.train()
    evaluated = result["evaluation"]["env_runners"]
    assert evaluated["num_episodes"] == 12  # groups of 4
    assert 0 <= evaluated["win_rate"] <= 1
    assert algorithm.centre.replay.num_added == 24
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == other["env_runners"]["num_env_steps_sampled_lifetime"]
    assert_equal(parameters(algorithm), parameters(plain))
    runner = algorithm.eval_env_runner or algorithm.env_runner
    env = runner._agents.env
    env.actions.clear()
    algorithm.evaluate()
    greedy = [actions[0] for actions in env.actions[:3]]
    algorithm.evaluate()
    assert len(greedy) == 3
    module = algorithm.get_module()
    view = env.reset(np.ones(4, bool), np.zeros(4, np.int64))
    batch = {
        Columns.OBS: {"observations": torch.from_numpy(view.observations), "masks": torch.from_numpy(view.masks)},
        Columns.STATE_IN: {"hidden": torch.zeros(4, 3, 8)},
    }
    out = module.forward_inference(batch)
    values, _ = module.networks(
        module.networks.arrange(torch.from_numpy(view.observations)[:, None], torch.full((4, 1, 3), -1)),
        module.networks.start(4),
    )
    assert (out[Columns.ACTIONS] == values[:, 0].masked_fill(~torch.from_numpy(view.masks), -torch.inf).argmax(-1)).all()
    assert out[Columns.STATE_OUT]["hidden"].shape == (4, 3, 8)
    with pytest.raises(ValueError, match="evaluation is without exploration"):
        runner.sample(num_episodes=1, explore=True)
    algorithm.stop()
    plain.stop()


def test_epsilon_goes_by_environment_steps(ray_session: None) -> None:
    algorithm = built(tiny(epsilon=[[0, 1.0], [64, 0.2]]))
    found = [agg(algorithm.train())["epsilon"] for _ in range(5)]
    np.testing.assert_allclose(found, [0.8, 0.6, 0.4, 0.2, 0.2])
    algorithm.evaluate()
    assert algorithm.centre.epsilon == pytest.approx(0.2)
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


def test_an_evaluation_without_a_sound_episode_ends_with_an_error(ray_session: None) -> None:
    config = tiny("walk/corridor").environment("walk/corridor", env_config={"faults": "always nan"})
    algorithm = built(config.evaluation(evaluation_interval=1, evaluation_duration=4))
    with pytest.raises(RuntimeError, match=r"12 episodes broke down, or had .* there is nothing to evaluate"):
        algorithm.evaluate()
    algorithm.stop()


def test_an_older_state_in_memory_brings_back_the_older_parameters(ray_session: None) -> None:
    algorithm = built(tiny(), 2)
    state, before = algorithm.get_state(), parameters(algorithm)
    for _ in range(3):
        algorithm.train()
    assert any((value != before[name]).any() for name, value in parameters(algorithm).items())
    algorithm.set_state(state)
    assert_equal(parameters(algorithm), before)
    algorithm.stop()


def test_an_environments_error_is_told(ray_session: None) -> None:
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
    assert algorithm.centre.ledger.messages == 0
    algorithm.stop()


def test_tune_searches_over_sharing(ray_session: None, tmp_path: Path) -> None:
    config = tiny(parameter_sharing=tune.grid_search(["none", "a_pps"]), sharing_interval=2)
    run_config = tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(tmp_path))
    results = tune.Tuner(QMIX, param_space=config, run_config=run_config).fit()
    assert not results.errors
    messages = {result.config["parameter_sharing"]: agg(result.metrics)["messages"] for result in results}
    assert messages == {"none": 0, "a_pps": 2 * 8}


def test_losses_are_logged_and_nothing_is_nan(ray_session: None) -> None:
    algorithm = built(tiny("walk/corridor", mixer="vdn"), 2)
    result = algorithm.train()
    learned = {name: value for name, value in result["learners"][MODULE].items() if name != "agg"}
    assert {"total_loss", "td_error_abs_mean", "q_taken_mean", "target_mean"} <= learned.keys()
    assert all(np.isfinite(value) for value in (*learned.values(), *agg(result).values())), learned
    assert 0 <= result["env_runners"]["win_rate"] <= 1
    algorithm.stop()


def test_faithful_is_table_1() -> None:
    config = QMIXConfig().faithful().training(parameter_sharing="rs_pps", mixer="vdn")
    assert (config.lr, config.gamma, config.grad_clip, config.mixer) == (5e-4, 0.99, 10.0, "vdn")
    assert config.model_config["mixer"] == "vdn"
    assert (config.train_batch_size_per_learner, config.replay_settings.capacity) == (96, 5000)
    assert (config.target_network_update_freq, config.tau) == (200, 1.0)
    assert config.epsilon_schedule == [(0.0, 1.0), (50_000.0, 0.05)]
    assert (config.sharing_interval, config.reward_buffer_size, config.same_init) == (300, 96, False)
    soft = QMIXConfig().faithful("soft")
    assert (soft.target_network_update_freq, soft.tau) == (1, 0.05)
    with pytest.raises(ValueError, match="unknown targets 'sfot'"):
        QMIXConfig().faithful("sfot")


class NeverCalled(RLlibCallback):
    """Wants to hear of episodes."""

    def on_episode_end(self, **kwargs: Any) -> None:
        raise AssertionError


class Called(RLlibCallback):
    """Wants to hear of the algorithm."""

    def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
        result["heard"] = True


def test_an_algorithms_callbacks_are_called(ray_session: None) -> None:
    algorithm = built(tiny().callbacks(Called))
    assert algorithm.train()["heard"]
    algorithm.stop()


def test_epsilon_may_be_an_array() -> None:
    config = tiny(epsilon=np.array([[0, 1.0], [10, 0.5]]))
    config.validate()
    assert config.copy().epsilon_schedule == [(0.0, 1.0), (10.0, 0.5)]


def test_a_loaded_module_is_begun_with(ray_session: None, tmp_path: Path) -> None:
    trained = built(tiny(parameter_sharing="full"), 2)
    path = trained.save_to_path(tmp_path / "checkpoint")
    spec = RLModuleSpec(load_state_path=str(Path(path) / "learner_group" / "learner" / "rl_module" / MODULE))
    algorithm = built(tiny(parameter_sharing="full").rl_module(rl_module_spec=spec))
    assert_equal(parameters(algorithm), parameters(trained))
    trained.stop()
    algorithm.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.training(mixer="qmx"), r"unknown mixer 'qmx' \(did you mean 'qmix'\?\); choose from None, qmix, vdn"),
        (
            lambda c: c.training(parameter_sharing="rspps"),
            "unknown parameter_sharing 'rspps' .*choose from a_pps, full, none, pp_pps",
        ),
        (lambda c: c.training(credit="agent"), "unknown credit 'agent'; choose from contribution, env, team"),
        (lambda c: c.training(moments="mean"), "unknown moments 'mean'.* choose from keep, merge, reset"),
        (lambda c: c.training(shared_layers="head"), "shared_layers must be a sequence of feature, rnn, head, got 'head'"),
        (lambda c: c.training(shared_layers=["heads"]), r"unknown shared layer 'heads' \(did you mean 'head'\?\)"),
        (lambda c: c.training(sharing_interval=0), "sharing_interval must be an integer >= 1, got 0"),
        (lambda c: c.training(target_network_update_freq=0.5), "target_network_update_freq must be an integer >= 1, got 0.5"),
        (lambda c: c.training(tau=0), "tau must be a finite number > 0 and <= 1, got 0"),
        (lambda c: c.training(td_lambda=1.5), "td_lambda must be a finite number >= 0 and <= 1, got 1.5"),
        (lambda c: c.training(gamma=2), "gamma must be a finite number >= 0 and <= 1, got 2"),
        (lambda c: c.training(epsilon=2), "epsilon must be a finite number >= 0 and <= 1, got 2"),
        (lambda c: c.training(epsilon=[[0, 1], [0, 0.1]]), "epsilon's env steps must ascend"),
        (
            lambda c: c.training(epsilon=[1, 0.1]),
            r"epsilon must be a number or \[\[env steps, number\], ...\], got \[1, 0.1\]",
        ),
        (lambda c: c.training(reward_scale=-1), "reward_scale must be a finite number > 0, got -1"),
        (lambda c: c.training(updates_per_episode=0), "updates_per_episode must be a finite number > 0, got 0"),
        (lambda c: c.training(double_q=1), "double_q must be True or False, got 1"),
        (lambda c: c.training(agent_ids="yes"), "agent_ids must be True or False, got 'yes'"),
        (lambda c: c.training(replay_buffer_config={"capcity": 9}), "replay_buffer_config has no setting 'capcity'"),
        (lambda c: c.training(replay_buffer_config={"capacity": 7}), "capacity=7 never holds a batch of .*=8 episodes"),
        (lambda c: c.training(replay_buffer_config={"dtype": "half"}), "unknown dtype 'half'; choose from float16, float32"),
        (lambda c: c.training(num_epochs=3), "QMIXConfig does not use num_epochs"),
        (lambda c: c.learners(num_learners=1), "set num_learners=0, not 1"),
        (lambda c: c.env_runners(explore=True), "explore by epsilon; leave explore=False"),
        (
            lambda c: c.rl_module(model_config={"use_lstm": True}),
            "no model_config 'use_lstm'; choose from hidden_dim, hypernet_dim",
        ),
        (lambda c: c.rl_module(model_config={"hidden_dim": 0}), "hidden_dim must be an integer >= 1, got 0"),
        (lambda c: c.update_from_dict({"mixr": "vdn"}), r"QMIXConfig has no setting 'mixr' \(did you mean 'mixer'\?\)"),
        (lambda c: c.training(train_batch_size=64), "QMIXConfig does not use train_batch_size"),
        (lambda c: c.training(grad_clip=-3), "grad_clip must be a finite number > 0, got -3"),
        (lambda c: c.training(replay_buffer_config=5), "must be a mapping, got 5"),
        (lambda c: c.callbacks(on_episode_end=lambda **_: None), "never calls on_episode_end"),
        (lambda c: c.callbacks(on_sample_end=lambda **_: None), "never calls on_sample_end"),
        (lambda c: c.callbacks(on_environment_created=lambda **_: None), "never calls on_environment_created"),
        (lambda c: c.callbacks(NeverCalled), "never calls on_episode_end"),
        (lambda c: c.callbacks([RLlibCallback, NeverCalled]), "never calls on_episode_end"),
        (lambda c: c.training(lr=-0.5), "lr must be a finite number >= 0, got -0.5"),
        (lambda c: c.training(lr=None), "lr must be a finite number >= 0, got None"),
        (lambda c: c.training(lr=[[0, 1e-3], [9, -1e-3]]), "lr must be a finite number >= 0, got -0.001"),
        (lambda c: c.training(credit=["env"]), "unknown credit .*choose from contribution, env, team"),
        (lambda c: c.training(replay_buffer_config={"dtype": ["float16"]}), "unknown dtype .*choose from float16, float32"),
        (lambda c: c.env_runners(rollout_fragment_length=7), "QMIXConfig does not use rollout_fragment_length$"),
        (
            lambda c: c.rl_module(rl_module_spec=RLModuleSpec(model_config={"hidden_dim": 16})),
            r"by .rl_module\(model_config=...\), not in an RLModuleSpec",
        ),
        (lambda c: c.rl_module(rl_module_spec=RLModuleSpec(module_class=ESModule)), "derive .*ESModule.* from QMIXModule"),
    ],
)
def test_bad_settings(change: Callable[[QMIXConfig], Any], message: str) -> None:
    config = tiny()
    with pytest.raises(ValueError, match=message):
        change(config).validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.environment("matrix/three_step"),
            "unknown matrix game 'three_step'.* choose from climbing, penalty, two_step",
        ),
        (lambda c: c.environment("matrx/two_step"), "unknown backend 'matrx'"),
        (lambda c: c.training(credit="env"), "has no credit 'env'; choose from team"),
        (
            lambda c: c.training(replay_buffer_config={"max_gb": 1e-6}),
            "the replay is too large: 5000 episodes of up to 2 steps",
        ),
    ],
)
def test_what_does_not_fit_the_environment_is_told_at_build(
    change: Callable[[QMIXConfig], Any], message: str, ray_session: None
) -> None:
    with pytest.raises(ValueError, match=message):
        change(tiny()).build_algo()
