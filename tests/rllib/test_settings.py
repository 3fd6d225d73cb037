"""Wrong settings are refused where they are made, in words that say what is right."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import get_trainable_cls

from rl_agg import Signals
from rllib_agg import (
    A3C,
    DAVIA,
    DQL,
    EBCDQL,
    ES,
    QMIX,
    TDEF,
    A3CConfig,
    AggAPPO,
    AggAPPOConfig,
    AggDQN,
    AggDQNConfig,
    AggIMPALA,
    AggIMPALAConfig,
    AggPPO,
    AggPPOConfig,
    AggSAC,
    DAVIAConfig,
    DeepEBCDQL,
    DQLConfig,
    EBCDQLConfig,
    ESConfig,
    QMIXConfig,
)
from rllib_agg.aggregation import AggConfigMixin, _compat
from rllib_agg.ppo import AggPPOTorchLearner
from rllib_agg.qmix.learner import QMIXLearner
from rllib_agg.server_loop.learner import ServerLearner
from tests.rllib.ppo_configs import tiny_ppo


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"aggregation": "r_weigthed"},
            r"unknown aggregation 'r_weigthed' \(did you mean 'r_weighted'\?\); choose from a_pps, actor_mean",
        ),
        ({"aggregation": "sum", "aggregation_kwargs": {"h": 3}}, "sum has no setting 'h'"),
        (
            {"aggregation": "krum", "aggregation_kwargs": {"num_byzantin": 1}},
            r"krum has no setting 'num_byzantin'; choose from num_byzantine, num_selected \(did you mean 'num_byzantine'\?\)",
        ),
        ({"parameter_sharing": "e_weighted"}, "parameter_sharing='e_weighted' reads explained_variance, which"),
        ({"aggregation": "r_weighted", "aggregation_kwargs": {"h": -1}}, "h must be a positive number"),
        ({"aggregation_kwargs": {"normalize": "yes"}}, "normalize must be True or False, got 'yes'"),
        ({"aggregation_kwargs": "h=3"}, "aggregation_kwargs must be a dict, got 'h=3'"),
        (
            {"aggregation": "l_weighted", "aggregation_kwargs": {"mixed_sign": "flip"}},
            r"unknown mixed_sign 'flip' \(did you mean 'clip'\?\); choose from",
        ),
        ({"aggregation": 3}, "a rule is a name or a callable, got 3"),
        ({"agents": "envs"}, "unknown agents 'envs'; choose from env_runner, sub_env"),
        ({"advantage_norm": "batch"}, "unknown advantage_norm 'batch'; choose from agent, none, stock"),
    ],
)
def test_bad_training_settings(training: dict[str, Any], message: str, ray_session: None) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_ppo(**training).build_algo()


def test_unknown_builder_argument() -> None:
    with pytest.raises(TypeError, match="agregation"):
        AggPPOConfig().training(agregation="mean")


def test_unknown_setting_as_an_attribute() -> None:
    config = tiny_ppo()
    config.for_my_callback = 3
    config.validate()
    config.agregation = "median"
    with pytest.raises(ValueError, match=r"AggPPOConfig has no setting 'agregation' \(did you mean 'aggregation'\?\)"):
        config.validate()


def test_overrides_of_a_module_that_there_is_not(caplog: pytest.LogCaptureFixture) -> None:
    """It may be added later."""
    config = tiny_ppo().multi_agent(algorithm_config_overrides_per_module={"default_polcy": {"aggregation": "median"}})
    with caplog.at_level("WARNING", "rllib_agg"):
        config.check_modules(RLModuleSpec())
    assert "settings for module 'default_polcy', and there is only 'default_policy': they act once it is added" in caplog.text


def test_unknown_setting_in_a_plain_dict(ray_session: None) -> None:
    with pytest.raises(ValueError, match="AggPPOConfig has no setting 'agregation'"):
        AggPPO(config={"env": "CartPole-v1", "agregation": "sum"})


def test_bad_rule_in_a_plain_dict(ray_session: None) -> None:
    with pytest.raises(ValueError, match="unknown aggregation 'median-ish'"):
        AggPPO(config={"env": "CartPole-v1", "aggregation": "median-ish"})


def test_minus_one_is_a_value_like_any_other(ray_session: None) -> None:
    """RLlib marks settings that are gone by -1, and drops whatever equals it on the way into an algorithm."""
    config = DQLConfig().environment("rl_agg/SimpleGrid-v0").env_runners(num_env_runners=0).training(initial_value=-1.0)
    algorithm = config.build_algo()
    try:
        assert algorithm.config.initial_value == -1.0
    finally:
        algorithm.stop()
    with pytest.raises(ValueError, match="td_lambda must be"):
        QMIXConfig().environment("matrix/two_step").env_runners(num_env_runners=0).training(td_lambda=-1).build_algo()


def test_known_settings_in_a_plain_dict() -> None:
    settings = {"aggregation": "l_weighted", "lambda": 0.9, "env_config": {"a": 1}, "evaluation_interval": 3}
    config = AggPPOConfig().update_from_dict(settings)
    assert (config.aggregation, config.lambda_, config.env_config["a"]) == ("l_weighted", 0.9, 1)


def test_fewer_agents_than_learners(ray_session: None) -> None:
    config = tiny_ppo(num_envs=2).learners(num_learners=3, shard_by_agent=True)
    with pytest.raises(ValueError, match="2 agents for 3 learners"):
        config.build_algo()


def test_evaluation_on_fewer_runners_than_learners() -> None:
    config = tiny_ppo(num_envs=1).env_runners(num_env_runners=4).learners(num_learners=3, shard_by_agent=True)
    config.evaluation(evaluation_interval=1, evaluation_num_env_runners=1)
    config.validate()
    config.get_evaluation_config_object().validate()


def test_algorithm_without_a_loss_per_sample(ray_session: None) -> None:
    class AggDQNConfig(AggConfigMixin, DQNConfig):
        """What a user might try."""

    with pytest.raises(ValueError, match=r"aggregation needs a learner with a loss per sample; DQNTorchLearner.* reduces"):
        AggDQNConfig().environment("CartPole-v1").training(aggregation="r_weighted").build_algo()


def test_no_default_learner_connectors() -> None:
    config = tiny_ppo().learners(add_default_connectors_to_learner_pipeline=False)
    with pytest.raises(ValueError, match="AggPPOConfig needs RLlib's default learner connectors"):
        config.validate()


def test_learner_without_a_loss_per_sample(ray_session: None) -> None:
    with pytest.raises(ValueError, match=r"needs a learner with a loss per sample; .*PPOTorchLearner.* reduces its loss"):
        tiny_ppo().learners(learner_class=PPOTorchLearner).build_algo()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"aggregation": "summ"}, "in the overrides for module 'p0': unknown aggregation 'summ'"),
        ({"advantage_norm": "batch"}, "in the overrides for module 'p0': unknown advantage_norm 'batch'; choose from"),
        ({"agregation": "sum"}, r"module 'p0': AggPPOConfig has no setting 'agregation' \(did you mean 'aggregation'\?\)"),
        ({"agents": "env_runner"}, "module 'p0' overrides agents, which holds for all modules alike"),
    ],
)
def test_bad_override_for_one_module(overrides: dict[str, Any], message: str) -> None:
    config = tiny_ppo().multi_agent(
        policies={"p0"},
        policy_mapping_fn=lambda *args, **kwargs: "p0",
        algorithm_config_overrides_per_module={"p0": overrides},
    )
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_old_api_stack() -> None:
    config = tiny_ppo().api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    with pytest.raises(ValueError, match="needs RLlib's new API stack"):
        config.validate()


def test_callable_rule() -> None:
    def by_rank(signals: Signals, *, best: float) -> torch.Tensor:
        return torch.where(signals.returns == signals.returns.max(), best, 1.0)

    config = tiny_ppo(aggregation=by_rank, aggregation_kwargs={"best": 5.0})
    config.validate()
    assert config.make_scheme().rule(Signals(returns=[1.0, 2.0])).tolist() == [1.0, 5.0]


def test_moved_api_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _compat.check()
    monkeypatch.setitem(_compat.NAMES, "ray.rllib.core.learner.learner:Learner", ("_make_batch_of_old",))
    with pytest.raises(ImportError, match=r"relies on Learner._make_batch_of_old, which Ray .* tested with Ray >=2.56,<2.61"):
        _compat.check()
    monkeypatch.setattr(_compat, "NAMES", {"ray.rllib.gone:Gone": ()})
    with pytest.raises(ImportError, match=r"relies on ray.rllib.gone.Gone"):
        _compat.check()


def test_moved_attribute_is_named(spaces: dict[str, Any]) -> None:
    learner = tiny_ppo().build_learner(spaces=spaces)
    del learner._weights_seq_no
    with pytest.raises(AttributeError, match=r"relies on AggPPOTorchLearner._weights_seq_no, which Ray .* does not have"):
        learner.weights_seq_no = 3


def test_private_names_are_in_one_file() -> None:
    """Of those that _compat holds, none is written anywhere else in the package."""
    package = Path(_compat.__file__).parents[1]
    private = set(re.findall(r"\b_[a-z]\w+", Path(_compat.__file__).read_text())) - {"_compat", "_attribute", "_moved"}
    assert "_weights_seq_no" in private
    for path in package.rglob("*.py"):
        if path.name != "_compat.py":
            assert not private & set(re.findall(r"\b_[a-z]\w+", path.read_text())), path


class DoubledLoss(AggPPOTorchLearner):
    def compute_loss_for_module(self, **kwargs: Any) -> torch.Tensor:
        return 2 * super().compute_loss_for_module(**kwargs)


class DoubledLosses(AggPPOTorchLearner):
    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Any]:
        return super().compute_gradients({name: 2 * loss for name, loss in loss_per_module.items()}, **kwargs)


@pytest.mark.parametrize("training", [{"communication": "lag"}, {"aggregation": "median"}, {"interval": 2}])
def test_a_loss_that_would_not_act_is_refused(training: dict[str, Any], ray_session: None) -> None:
    with pytest.raises(ValueError, match=r"DoubledLoss.compute_loss_for_module\(\) would not act; put its terms"):
        tiny_ppo(learner_class=DoubledLoss, **training).validate()
    algo = tiny_ppo(learner_class=DoubledLosses, **training).build_algo()
    with pytest.raises(ValueError, match=r"another loss given to compute_gradients\(\) would not act"):
        algo.train()
    algo.stop()


def test_a_loss_of_a_users_own_acts_where_rules_weigh_it() -> None:
    tiny_ppo(learner_class=DoubledLoss, aggregation="r_weighted").validate()


class LossOfItsOwn(QMIXLearner):
    def compute_loss_for_module(self, **_: Any) -> torch.Tensor:
        return torch.zeros(())


@pytest.mark.parametrize(
    ("config", "learner", "message"),
    [
        (QMIXConfig(), LossOfItsOwn, r"QMIXConfig never calls LossOfItsOwn.compute_loss_for_module\(\)"),
        (DQLConfig(), LossOfItsOwn, r"DQLConfig never calls LossOfItsOwn.compute_loss_for_module\(\)"),
        (QMIXConfig(), ServerLearner, "derive .* from QMIXLearner"),
    ],
)
def test_learners_that_would_not_learn(config: Any, learner: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.environment("CartPole-v1").training(learner_class=learner).validate()


@pytest.mark.parametrize("make", [A3CConfig, DQLConfig, QMIXConfig])
def test_overrides_of_the_only_module_are_refused(make: Any) -> None:
    config = make().environment("CartPole-v1")
    config.multi_agent(algorithm_config_overrides_per_module={"default_policy": {"gamma": 0.1}})
    with pytest.raises(ValueError, match="algorithm_config_overrides_per_module"):
        config.validate()


EVERY = (A3C, DAVIA, DQL, EBCDQL, ES, QMIX, TDEF, AggAPPO, AggDQN, AggIMPALA, AggPPO, AggSAC, DeepEBCDQL)


@pytest.mark.parametrize("algorithm", EVERY)
def test_algorithms_are_known_to_tune_by_name(algorithm: type) -> None:
    assert get_trainable_cls(algorithm.__name__) is algorithm


@pytest.mark.parametrize("algorithm", EVERY)
def test_settings_of_the_old_stacks_model_are_refused(algorithm: Any) -> None:
    for change in (
        lambda config: config.training(model={"fcnet_hiddens": [8]}),
        lambda config: config.update_from_dict({"model": {"fcnet_hiddens": [8]}}),
    ):
        config = change(algorithm.get_default_config())
        with pytest.raises(ValueError, match=r"does not use model; set the module up by .rl_module\(model_config="):
            config.validate()


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (QMIXConfig, {"train_batch_size": 32}),
        (QMIXConfig, {"num_epochs": 1}),
        (ESConfig, {"train_batch_size": 32}),
        (ESConfig, {"grad_clip": None}),
        (DAVIAConfig, {"minibatch_size": 128}),
        (A3CConfig, {"train_batch_size": 32}),
        (A3CConfig, {"num_epochs": 1}),
    ],
    ids=str,
)
def test_a_setting_that_would_be_ignored_is_refused_though_it_is_the_default(config: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"does not use {next(iter(setting))}"):
        config().training(**setting)


@pytest.mark.parametrize(
    ("config", "old", "new"),
    [
        (ESConfig, "episodes_per_batch", "population"),
        (ESConfig, "stepsize", "lr"),
        (ESConfig, "noise_size", "not needed"),
        (A3CConfig, "min_iter_time_s", r".reporting\(min_time_s_per_iteration=...\)"),
        (A3CConfig, "num_workers", r".env_runners\(num_env_runners=...\)"),
        (QMIXConfig, "buffer_size", "replay_buffer_config="),
        (QMIXConfig, "exploration_config", "epsilon="),
        (AggPPOConfig, "num_workers", r".env_runners\(num_env_runners=...\)"),
        (AggPPOConfig, "num_sgd_iter", r".training\(num_epochs=...\)"),
        (AggPPOConfig, "sgd_minibatch_size", r".training\(minibatch_size=...\)"),
    ],
)
def test_names_of_rllib_1_are_refused_with_the_new_ones(config: Any, old: str, new: str) -> None:
    with pytest.raises(TypeError, match=rf"has no setting '{old}'; {old} is now {new}" if "not" not in new else "not needed"):
        config().training(**{old: 1})
    with pytest.raises(ValueError, match=rf"has no setting '{old}'; {old} is now {new}"):
        config().update_from_dict({old: 1})


@pytest.mark.parametrize("config", [QMIXConfig, ESConfig, DQLConfig, A3CConfig])
def test_policies_of_a_users_own_are_refused(config: Any) -> None:
    settings = config().environment("CartPole-v1").multi_agent(policies={"p"}, policy_mapping_fn=lambda *args, **kwargs: "p")
    expected = "trains a team.*leave .multi_agent" if config is QMIXConfig else "takes single-agent environments"
    with pytest.raises(ValueError, match=expected):
        settings.validate()


def test_aggregator_actors_are_for_asynchronous_algorithms() -> None:
    config = tiny_ppo().learners(num_learners=1, num_aggregator_actors_per_learner=1)
    with pytest.raises(ValueError, match="set num_aggregator_actors_per_learner=0, not 1, or use AggIMPALAConfig"):
        config.validate()
    for other in (AggIMPALAConfig, AggAPPOConfig):
        other().environment("CartPole-v1").learners(num_learners=1, num_aggregator_actors_per_learner=1).validate()


def test_nothing_advises_what_would_be_refused() -> None:
    """RLlib advises to switch the new stack off; in a process of its own, for it does so once."""
    code = "from rllib_agg import AggPPOConfig, QMIXConfig; AggPPOConfig().environment('CartPole-v1').validate()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "new API stack" not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("config", "setting", "message"),
    [
        (A3CConfig, {"entropy_coeff": math.nan}, "entropy_coeff must be a number, got nan"),
        (A3CConfig, {"entropy_coeff": [[0, 0.1], [100, math.nan]]}, "entropy_coeff must be a number, got "),
        (AggPPOConfig, {"lr": math.nan}, "lr must be a"),
        (AggPPOConfig, {"lr": -1.0}, "lr must be a finite number >= 0, got -1.0"),
        (AggPPOConfig, {"lr": [[0, 1e-3], [1000, math.nan]]}, "lr must be a"),
        (AggPPOConfig, {"clip_param": math.nan}, "clip_param must be a number, got nan"),
        (AggPPOConfig, {"minibatch_size": 0}, "minibatch_size must be an integer >= 1, got 0"),
        (AggPPOConfig, {"num_epochs": 0}, "num_epochs must be an integer >= 1, got 0"),
        (AggPPOConfig, {"train_batch_size_per_learner": 2.5}, "train_batch_size_per_learner must be an integer >= 1, got 2.5"),
        (AggPPOConfig, {"grad_clip": -1}, "grad_clip must be a finite number > 0, got -1"),
        (AggPPOConfig, {"grad_clip": 0}, "grad_clip must be a finite number > 0, got 0"),
        (AggPPOConfig, {"gamma": "0.9"}, "gamma must be a finite number >= 0 and <= 1, got '0.9'"),
        (AggPPOConfig, {"lambda_": 1.1}, "lambda_ must be a finite number >= 0 and <= 1, got 1.1"),
        (AggPPOConfig, {"clip_param": 0.0}, "clip_param must be a finite number > 0, got 0.0"),
        (AggPPOConfig, {"kl_coeff": math.inf}, "kl_coeff must be a finite number >= 0, got inf"),
        (AggPPOConfig, {"vf_loss_coeff": -0.5}, "vf_loss_coeff must be a finite number >= 0, got -0.5"),
        (AggPPOConfig, {"entropy_coeff": [[0, 0.1], [9, "0"]]}, "entropy_coeff must be a finite number >= 0, got '0'"),
        (AggPPOConfig, {"entropy_coeff": [0, 0.1]}, "entropy_coeff must be a number or a schedule .*, got "),
        (AggAPPOConfig, {"lr": [[0, 0.1], ["9", 0.0]]}, "a step of lr must be a finite number >= 0, got '9'"),
        (AggDQNConfig, {"gamma": 1.5}, "gamma must be a finite number >= 0 and <= 1, got 1.5"),
        (AggIMPALAConfig, {"vf_loss_coeff": math.nan}, "vf_loss_coeff must be a number, got nan"),
        (ESConfig, {"gamma": math.nan}, "gamma"),
        (EBCDQLConfig, {"communication_kwargs": {"rho": 2}}, "rho must be a finite number >= 0 and <= 1, got 2"),
        (DAVIAConfig, {"features": np.zeros((25, 0))}, r"features must be finite numbers \[C, D\], got shape \(25, 0\)"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(config: Any, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config().environment("rl_agg/SimpleGrid-v0").training(**setting).validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.debugging(seed="1"), "seed must be an integer >= 0, got '1'"),
        (lambda config: config.debugging(seed=-1), "seed must be an integer >= 0, got -1"),
        (lambda config: config.env_runners(num_env_runners=-1), "num_env_runners must be an integer >= 0, got -1"),
        (
            lambda config: config.multi_agent(algorithm_config_overrides_per_module={"p": {"grad_clip": 0}}),
            "in the overrides for module 'p': grad_clip must be a finite number > 0, got 0",
        ),
    ],
)
def test_senseless_numbers_outside_the_training_are_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(tiny_ppo()).validate()


@pytest.mark.parametrize("setting", [{"output": "episodes"}, {"input_": "episodes"}], ids=str)
@pytest.mark.parametrize("config", [A3CConfig, ESConfig, QMIXConfig, DQLConfig])
def test_stored_episodes_are_refused_where_env_runners_have_none(config: Any, setting: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"leave {next(iter(setting))} out of .offline_data"):
        config().environment("rl_agg/SimpleGrid-v0").offline_data(**setting).validate()


def test_a_dict_of_rllibs_own_config_is_taken() -> None:
    assert AggPPOConfig().update_from_dict(PPOConfig().training(num_epochs=3).to_dict()).num_epochs == 3
