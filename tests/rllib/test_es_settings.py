"""Settings of evolution strategies and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_agg import ESConfig
from rllib_agg.es import ESModule
from rllib_agg.tabular import TableModule
from tests.rllib.populations import tiny_es
from tests.rllib.results import MODULE
from tests.rllib.unlimited import Unlimited


def test_faithful_is_the_report() -> None:
    config = ESConfig().faithful("ant").training(communication="espc", expected_messages=25)
    settings = config.evolution
    assert (settings.fitness, settings.antithetic, settings.optimizer, settings.l2_coeff) == ("raw", False, "adam", 0.05)
    assert (settings.lr, settings.noise_stdev, config.gamma) == (0.005, 0.02, 0.99)
    assert config.model_config["fcnet_hiddens"] == [64, 64]
    with pytest.raises(ValueError, match="unknown experiment 'cart'"):
        ESConfig().faithful("cart")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.training(communication="espc", expected_messages=11), "between 1 and 10, got 11"),
        (lambda c: c.training(communication="espc"), "espc needs 'expected_messages'"),
        (lambda c: c.training(noise_stdev=0), "noise_stdev must be a finite number > 0, got 0"),
        (lambda c: c.training(population=11), "pairs agents, so population must be even, got 11"),
        (lambda c: c.training(lr=[[0, 0.1], [100, 0.0]]), "lr must be a finite number > 0"),
        (lambda c: c.training(grad_clip=1.0), "ESConfig does not use grad_clip"),
        (lambda c: c.learners(num_learners=1), "set num_learners=0, not 1"),
        (lambda c: c.env_runners(env_to_module_connector=lambda *_: None), "does not use env_to_module_connector"),
        (lambda c: c.rl_module(model_config={"use_lstm": True}), "no model_config 'use_lstm'; choose from action_noise_stdev"),
        (lambda c: c.update_from_dict({"noise_stdv": 0.1}), "ESConfig has no setting 'noise_stdv'"),
        (lambda c: c.training(normalize_observations="yes"), "normalize_observations must be True or False"),
        (lambda c: c.training(train_batch_size_per_learner=7), "ESConfig does not use train_batch_size_per_learner"),
        (lambda c: c.training(train_batch_size=7), "ESConfig does not use train_batch_size"),
        (lambda c: c.training(num_epochs=7), "ESConfig does not use num_epochs"),
        (lambda c: c.training(minibatch_size=7), "ESConfig does not use minibatch_size"),
        (
            lambda c: c.training(communication="espc", expected_messages=2, communication_kwargs=5),
            "must be a (mapping|dict), got 5",
        ),
        (lambda c: c.rl_module(model_config={"fcnet_hiddens": 64}), "fcnet_hiddens must be a list of sizes, got 64"),
        (lambda c: c.env_runners(sample_timeout_s=-5), "sample_timeout_s must be a finite number > 0, got -5"),
        (lambda c: c.environment(None), "ESConfig needs an environment"),
        (lambda c: c.debugging(seed=-1), "seed must be an integer >= 0, got -1"),
        (lambda c: c.env_runners(observation_filter="MeanStdFilter"), "ESConfig does not use observation_filter"),
        (lambda c: c.environment(clip_rewards=True), "ESConfig does not use clip_rewards"),
        (lambda c: c.environment(clip_actions=True), "ESConfig does not use clip_actions in training"),
        (lambda c: c.training(grad_clip_by="value"), "ESConfig does not use grad_clip_by"),
        (lambda c: c.env_runners(num_envs_per_env_runner=4), "does not use num_envs_per_env_runner in training; evaluation_"),
        (lambda c: c.env_runners(num_gpus_per_env_runner=0.5), "ESConfig does not use num_gpus_per_env_runner$"),
        (lambda c: c.env_runners(rollout_fragment_length=4), "ESConfig does not use rollout_fragment_length$"),
        (lambda c: c.env_runners(batch_mode="complete_episodes"), "ESConfig does not use batch_mode$"),
        (lambda c: c.env_runners(gym_env_vectorize_mode="async"), "does not use gym_env_vectorize_mode in training"),
        (lambda c: c.rl_module(model_config={"fcnet_hiddens": ["a"]}), "each of fcnet_hiddens must be an integer >= 1"),
        (lambda c: c.rl_module(model_config={"fcnet_hiddens": [8.0]}), "each of fcnet_hiddens must be .*, got 8.0"),
        (lambda c: c.training(novelty="nse"), "unknown novelty 'nse'.*choose from ns, nsr, nsra"),
        (lambda c: c.training(novelty="ns", novelty_kwargs={"neighbours": 0}), "neighbours must be an integer >= 1, got 0"),
        (lambda c: c.training(reuse=-1), "reuse must be an integer >= 0, got -1"),
        (lambda c: c.training(reuse=2, normalize_observations=True), "normalised observations change their scale in between"),
        (lambda c: c.training(fitness=["raw"]), "unknown fitness .*choose from centered, l_weighted, r_weighted, ranks"),
        (lambda c: c.training(fitness="median"), "rule 'median' merges gradients and parameters, but payload 'scores'"),
        (lambda c: c.training(communication="lag"), "gate 'lag' decides about .*, but payload 'scores' exchanges scores"),
        (lambda c: c.training(optimizer=["adam"]), "unknown optimizer .*choose from adam, momentum, sgd"),
        (lambda c: c.training(communication=["every"]), "unknown communication .*choose from deviation, espc, every"),
        (lambda c: c.training(optimizer_kwargs={"epsilon": "a"}), "epsilon must be a finite number > 0, got 'a'"),
        (lambda c: c.training(optimizer_kwargs={"epsilon": math.inf}), "epsilon must be a finite number > 0, got inf"),
        (
            lambda c: c.rl_module(rl_module_spec=RLModuleSpec(model_config={"fcnet_hiddens": [4]})),
            r"by .rl_module\(model_config=...\), not in an RLModuleSpec",
        ),
        (lambda c: c.rl_module(rl_module_spec=RLModuleSpec(module_class=TableModule)), "derive .*TableModule.* from ESModule"),
        (
            lambda c: c.rl_module(
                rl_module_spec=MultiRLModuleSpec(rl_module_specs={MODULE: RLModuleSpec(module_class=ESModule)})
            ),
            "give an RLModuleSpec, not MultiRLModuleSpec",
        ),
    ],
)
def test_bad_settings(change: Callable[[ESConfig], Any], message: str) -> None:
    config = tiny_es()
    with pytest.raises(ValueError, match=message):
        change(config).validate()


def test_settings_from_a_dict() -> None:
    config = tiny_es().update_from_dict({"optimizer": "momentum", "noise_stdev": 0.3, "communication_kwargs": {"window": 3}})
    assert (config.optimizer, config.noise_stdev, config.communication_kwargs) == ("momentum", 0.3, {"window": 3})


class Second(Unlimited):
    """Counts its actions from 1."""

    action_space = gym.spaces.Discrete(2, start=1)


@pytest.mark.parametrize(
    ("env", "settings", "message"),
    [
        (Unlimited, {}, "no time limit"),
        (Second, {"max_episode_steps": 10}, r"actions must begin at 0, .* gymnasium.wrappers.TransformAction\(env, "),
        ("Blackjack-v1", {"max_episode_steps": 10}, "observations must be a Box or Discrete"),
    ],
)
def test_bad_environments_fail_at_build(env: Any, settings: dict[str, Any], message: str, ray_session: None) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_es(**settings).environment(env).build_algo()


def test_module_is_an_rl_module() -> None:
    space = gym.spaces.Box(-1, 1, (2, 3), np.float32)
    model = {"fcnet_hiddens": [], "fcnet_activation": "relu", "action_noise_stdev": 0.0}
    module = ESModule(observation_space=space, action_space=gym.spaces.Box(-1, 1, (2,)), model_config=model)
    outputs = module.forward_inference({Columns.OBS: torch.zeros(4, 2, 3)})[Columns.ACTION_DIST_INPUTS]
    distribution = module.get_inference_action_dist_cls().from_logits(outputs).to_deterministic()
    assert distribution.sample().shape == (4, 2)
