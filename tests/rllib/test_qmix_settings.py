"""QMIX's settings and their checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_agg import Weighting
from rl_agg.combiners.krum import Krum
from rl_agg.local_schemes import AveragePPS
from rllib_agg import QMIXConfig
from rllib_agg.es import ESModule
from tests.rllib.named_worlds import Corridor
from tests.rllib.qmix_runs import built, tiny
from tests.rllib.results import agg


@pytest.mark.parametrize("setting", [{"capacity": 40, "dtype": "float16", "max_gb": 1.0}])
def test_replay_settings_train(setting: dict[str, Any], ray_session: None) -> None:
    algorithm = built(tiny(replay_buffer_config=setting), 1)
    for name, value in setting.items():
        assert getattr(algorithm.config.replay_settings, name) == value
    assert agg(algorithm.train())["replay_episodes"] == 16
    algorithm.stop()


def test_faithful_trains(ray_session: None) -> None:
    algorithm = built(tiny().faithful().training(train_batch_size_per_learner=8), 2)
    assert algorithm.server.replay.capacity == 5000
    assert algorithm.server.num_updates == 16
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.training(mixer="qmx"),
            r"unknown mixer 'qmx' \(did you mean 'qmix'\?\); choose from None, qmix, qtran, vdn",
        ),
        (
            lambda c: c.training(parameter_sharing="rspps"),
            "unknown parameter_sharing 'rspps' .*choose from a_pps, .*full, .*krum, .*none, pp_pps",
        ),
        (lambda c: c.training(credit="agent"), "unknown credit 'agent'; choose from None, contribution, env, team"),
        (lambda c: c.training(moments="mean"), "unknown moments 'mean'.* choose from keep, merge, reset"),
        (lambda c: c.training(shared_layers="head"), "layers must be names of modules, or None for all, got 'head'"),
        (lambda c: c.training(shared_layers=["heads"]), r"unknown layer 'heads' \(did you mean 'head'\?\)"),
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
            "no model_config 'use_lstm'; choose from central_dim, hidden_dim, hypernet_dim",
        ),
        (lambda c: c.rl_module(model_config={"hidden_dim": 0}), "hidden_dim must be an integer >= 1, got 0"),
        (lambda c: c.rl_module(model_config={"central_dim": 0}), "central_dim must be an integer >= 1, got 0"),
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
        (lambda c: c.training(credit=["env"]), "unknown credit .*choose from None, contribution, env, team"),
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
    ("settings", "message"),
    [
        (
            {"weighting": "optimist"},
            r"unknown weighting 'optimist' \(did you mean 'optimistic'\?\); choose from None, central",
        ),
        *[
            (
                {"weighting": "central", "mixer": mixer},
                f"weighting='central' weights the loss of mixer='qmix', but mixer={mixer!r} was given; leave one out",
            )
            for mixer in ("vdn", "qtran", None)
        ],
        (
            {"weighting_alpha": 0.3},
            "weighting_alpha=0.3 has no effect with weighting=None; set weighting, to one of optimistic",
        ),
        ({"weighting": "central", "weighting_alpha": 0}, "weighting_alpha must be a finite number > 0 and <= 1, got 0"),
        ({"lambda_opt": 2.0}, "lambda_opt=2.0 weights a loss of mixer='qtran', but mixer='qmix' was given; leave one out"),
        ({"lambda_nopt": 1.0, "mixer": None}, "lambda_nopt=1.0 weights a loss of mixer='qtran', but mixer=None was given"),
        ({"lambda_opt": 0, "mixer": "qtran"}, "lambda_opt must be a finite number > 0, got 0"),
        ({"lambda_nopt": -1, "mixer": "qtran"}, "lambda_nopt must be a finite number >= 0, got -1"),
    ],
)
def test_losses_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**settings).validate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"communication": "lag"}, "parameter_sharing='none' exchanges nothing, but communication='lag' was given"),
        (
            {"parameter_sharing": "full", "broadcast_compression": "float16"},
            "parameter_sharing='full' exchanges nothing, but broadcast_compression='float16'",
        ),
        (
            {"parameter_sharing": "full", "compression": "float16"},
            "parameter_sharing='full' exchanges nothing, but compression='float16'",
        ),
        ({"parameter_sharing_kwargs": {"h": 3}}, "parameter_sharing='none' .* parameter_sharing_kwargs={'h': 3}"),
        ({"shared_layers": ["head"]}, r"parameter_sharing='none' .* shared_layers=\['head'\] was given"),
        ({"moments": "merge"}, "parameter_sharing='none' exchanges nothing, but moments='merge' was given"),
        ({"within_type": True}, "parameter_sharing='none' exchanges nothing, but within_type=True was given; leave one out"),
        (
            {"parameter_sharing": "full", "merge_targets": True},
            "parameter_sharing='full' exchanges nothing, but merge_targets=True was given; leave one out",
        ),
        ({"parameter_sharing": "fedprox"}, "unknown parameter_sharing 'fedprox'"),
        ({"parameter_sharing": "l_weighted"}, "parameter_sharing='l_weighted' reads each agent's loss, but .* one loss"),
        ({"parameter_sharing": "e_weighted"}, "parameter_sharing='e_weighted' reads explained_variance, which"),
        ({"parameter_sharing": "guarded"}, "parameter_sharing='guarded' reads explained_variance, which"),
        ({"parameter_sharing": "ranks"}, "rule 'ranks' merges scores, but payload 'parameters' exchanges parameters"),
        ({"parameter_sharing": AveragePPS(interval=3)}, "has settings of its own; give one of a_pps, rs_pps, pp_pps"),
        ({"parameter_sharing": Krum}, "Krum is a class; give its name 'krum'"),
        ({"parameter_sharing": 5}, "a rule is a name or a callable, got 5"),
        ({"parameter_sharing": "a_pps", "parameter_sharing_kwargs": {"h": 3}}, "mean has no setting 'h'"),
        (
            {"parameter_sharing": "mean", "communication": "espc"},
            "gate 'espc' decides about scores, but payload 'parameters' exchanges parameters",
        ),
        (
            {"parameter_sharing": "mean", "communication": "gain"},
            "gate 'gain' decides about gradients, but payload 'parameters' exchanges parameters; choose every, lag, random",
        ),
        ({"parameter_sharing": "mean", "communication": "lagg"}, r"unknown communication 'lagg' \(did you mean 'lag'\?\)"),
        ({"parameter_sharing": "mean", "compression": "float61"}, "unknown compression 'float61'"),
        (
            {"parameter_sharing": "mean", "compression_kwargs": {"error_feedback": True}},
            "error_feedback=True has nothing to feed back: codec 'identity' is lossless",
        ),
    ],
)
def test_ways_of_sharing_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**settings).validate()


@pytest.mark.parametrize("sharing", ["none", "full", "a_pps"])
def test_a_sweep_over_ways_of_sharing_may_have_an_interval(sharing: str) -> None:
    tiny(parameter_sharing=sharing, sharing_interval=7, reward_buffer_size=9).validate()


@pytest.mark.parametrize(
    "sharing", ["sum", "samples", "median", Krum(num_selected=2), Weighting("r_weighted", normalize=True)]
)
def test_rules_and_combiners_are_ways_of_sharing(sharing: Any) -> None:
    config = tiny(parameter_sharing=sharing, sharing_interval=7)
    config.validate()
    assert config.sharing.payload.content == "parameters"
    assert config.sharing.schedule.interval == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.environment("matrix/three_step"),
            "unknown matrix game 'three_step'.* choose from climbing, nonmonotonic, penalty, two_step",
        ),
        (lambda c: c.environment("matrx/two_step"), "unknown backend 'matrx'"),
        (
            lambda c: c.environment(Corridor, env_config={"max_episode_steps": 9, "state": lambda env, seen: []}),
            "Corridor.* state_size must be an integer >= 1, got 0",
        ),
        (lambda c: c.training(credit="env"), "has no credit 'env'; choose from team"),
        (lambda c: c.training(parameter_sharing="krum", parameter_sharing_kwargs={"num_byzantine": 1}), "krum.*num_byzantine"),
        (
            lambda c: c.training(
                parameter_sharing="mean", communication="random", communication_kwargs={"expected_messages": 3}
            ),
            "expected_messages must be an integer between 1 and 2, got 3",
        ),
        (
            lambda c: c.training(replay_buffer_config={"max_gb": 1e-6}),
            "the replay is too large: 5000 episodes of up to 2 steps",
        ),
    ],
)
def test_what_does_not_fit_the_environment_fails_at_build(
    change: Callable[[QMIXConfig], Any], message: str, ray_session: None
) -> None:
    with pytest.raises(ValueError, match=message):
        change(tiny()).build_algo()


def test_a_mixer_that_does_not_read_the_state_trains_without_one(ray_session: None) -> None:
    settings = {"max_episode_steps": 9, "state": lambda env, seen: []}
    algorithm = built(tiny(mixer="vdn").environment(Corridor, env_config=settings), 1)
    assert algorithm.agents.env.spec.state_size == 0
    algorithm.stop()
