"""Tabular algorithms on RLlib: the core's numbers, from any number of runners, with checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_agg import register_gate
from rl_agg.gates import TransitionGate
from rl_agg.population import open_environments
from rl_agg.tabular import DaviaAgents, DaviaLearner, QAgents, QLearner, TabularEpisodes, TdefAgents, TdefLearner
from rllib_agg import DAVIA, DQL, EBCDQL, TDEF, DAVIAConfig, DQLConfig, EBCDQLConfig, TDEFConfig
from tests.rllib.results import agg
from tests.states import as_arrays

cloudpickle.register_pickle_by_value(sys.modules[__name__])

CONFIGS = [DQLConfig, EBCDQLConfig, DAVIAConfig, TDEFConfig]


def tiny(config_class: type, num_env_runners: int = 0, **training: Any) -> Any:
    config = config_class().environment("rl_agg/SimpleGrid-v0").env_runners(num_env_runners=num_env_runners)
    return config.training(population=4, **training).debugging(seed=5)


def core(config: Any, updates: int) -> Any:
    """The same run without Ray."""
    episodes = TabularEpisodes(open_environments("rl_agg/SimpleGrid-v0", {}), gamma=config.gamma)
    if isinstance(config, DAVIAConfig):
        agents: Any = DaviaAgents(episodes, config.settings)
        server: Any = DaviaLearner(agents.features, agents.model, gamma=0.9, run=5, settings=config.settings)
    elif isinstance(config, TDEFConfig):
        agents = TdefAgents(episodes, config.settings)
        server = TdefLearner(agents.features, agents.policy, 5, gamma=0.9, run=5, settings=config.settings)
    else:
        agents = QAgents(episodes, config.settings)
        server = QLearner(episodes.shape, gamma=0.9, run=5, settings=config.settings)
    for _ in range(updates):
        server.receive(agents.run(server.broadcast(), np.arange(5)))
    return server


@pytest.mark.parametrize("config_class", CONFIGS)
def test_same_as_the_core_and_restores_to_the_bit(config_class: type, ray_session: None, tmp_path: Path) -> None:
    algorithm = tiny(config_class).build_algo()
    for _ in range(4):
        algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    for _ in range(4):
        result = algorithm.train()
    expected = core(tiny(config_class), 8)
    np.testing.assert_equal(as_arrays(algorithm.server.state_dict()), as_arrays(expected.state_dict()))
    logged = agg(result)
    assert logged["bytes"] == expected.ledger.bytes > 0
    assert logged["mu_size"] == expected.measures["mu_size"]
    restored = type(algorithm).from_checkpoint(path)
    for _ in range(4):
        restored.train()
    np.testing.assert_equal(as_arrays(restored.server.state_dict()), as_arrays(expected.state_dict()))
    assert algorithm.evaluate()["env_runners"]["episode_return_mean"] < 0
    values = algorithm.get_module().forward_inference({Columns.OBS: torch.arange(25)})[Columns.ACTION_DIST_INPUTS]
    np.testing.assert_array_equal(values.numpy(), expected.action_values)
    algorithm.stop()
    restored.stop()


@pytest.mark.slow
@pytest.mark.parametrize("config_class", [EBCDQLConfig, TDEFConfig])
def test_two_runners_give_the_table_of_one(config_class: type, ray_session: None) -> None:
    algorithm = tiny(config_class, 2).build_algo()
    for _ in range(5):
        algorithm.train()
    np.testing.assert_array_equal(algorithm.server.theta, core(tiny(config_class), 5).theta)
    assert algorithm.server.ledger.physical_bytes > 0
    algorithm.stop()


class FirstTwo(TransitionGate):
    """Send the first two transitions of every episode."""

    def decide_transitions(self, errors: np.ndarray, usual: float) -> tuple[np.ndarray, float]:
        return np.arange(len(errors)) < 2, usual


@pytest.mark.slow
def test_a_gate_of_a_users_own_goes_to_the_runners(ray_session: None) -> None:
    register_gate("first_two", FirstTwo)
    algorithm = tiny(EBCDQLConfig, 1, communication="first_two").build_algo()
    assert agg(algorithm.train())["bytes"] == 4 * 2 * 9
    algorithm.stop()


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_custom_features(kind: Callable[..., Any], ray_session: None, tmp_path: Path) -> None:
    features = kind(np.stack([np.ones(25), np.arange(25) // 5 + np.arange(25) % 5], axis=1))
    algorithm = tiny(DAVIAConfig, features=features, lr=0.05).build_algo()
    algorithm.train()
    spec = RLModuleSpec(load_state_path=algorithm.get_module().save_to_path(tmp_path / "module"))
    loaded = tiny(DAVIAConfig, features=features).rl_module(rl_module_spec=spec).build_algo()
    np.testing.assert_array_equal(loaded.server.theta, algorithm.server.theta)
    loaded.stop()
    assert algorithm.module.read().shape == (2,)
    assert algorithm.server.ledger.bytes == 8 * algorithm.server.ledger.messages
    algorithm.stop()


def test_the_time_limit_holds_in_evaluation(ray_session: None) -> None:
    algorithm = tiny(DQLConfig, max_episode_steps=12).build_algo()
    assert algorithm.evaluate()["env_runners"]["episode_len_max"] == 12
    algorithm.stop()


@pytest.mark.parametrize(("policy", "size"), [("greedy", 10), (np.full((25, 5), 0.2), 2)])
def test_compressed_directions_of_custom_features(policy: Any, size: int, ray_session: None, tmp_path: Path) -> None:
    features = np.stack([np.ones(25), np.arange(25) // 5 + np.arange(25) % 5], axis=1)
    algorithm = tiny(TDEFConfig, policy=policy, features=features, lr=0.05, compression="sign").build_algo()
    algorithm.train()
    assert algorithm.module.read().shape == algorithm.server.theta.shape == (size,)
    assert algorithm.server.ledger.bytes == 4 * -(-(size + 32) // 8)
    restored = TDEF.from_checkpoint(algorithm.save_to_path(tmp_path / "checkpoint"))
    algorithm.train()
    restored.train()
    np.testing.assert_equal(as_arrays(restored.server.state_dict()), as_arrays(algorithm.server.state_dict()))
    algorithm.stop()
    restored.stop()


@pytest.mark.parametrize("features", [[1.0, 2.0], [[1.0, 2.0], [3.0]], "abc", np.ones((3, 2))])
def test_bad_features_fail_at_build(features: Any, ray_session: None) -> None:
    with pytest.raises(ValueError, match="features must be finite numbers"):
        tiny(DAVIAConfig, features=features).build_algo()


@pytest.mark.parametrize(
    ("algorithm", "env", "message"),
    [
        (DQL, "CartPole-v1", "a table needs Discrete observations"),
        (EBCDQL, "MountainCarContinuous-v0", "a table needs Discrete"),
        (DAVIA, "Blackjack-v1", "a table needs Discrete observations"),
        (TDEF, "CartPole-v1", "a table needs Discrete observations"),
    ],
)
def test_bad_environments_fail_at_build(algorithm: Any, env: str, message: str, ray_session: None) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm.get_default_config().environment(env).training(max_episode_steps=9).build_algo()


@pytest.mark.parametrize(
    ("config_class", "change", "message"),
    [
        (DQLConfig, lambda c: c.training(communication_kwargs={"rho": 1.0}), "every has no setting 'rho'"),
        (EBCDQLConfig, lambda c: c.training(communication_kwargs={"rho": -1.0}), "rho must be a finite number >= 0"),
        (DAVIAConfig, lambda c: c.training(communication_kwargs={"lambda": 1.0}), "no setting 'lambda'; choose from lambda_"),
        (DQLConfig, lambda c: c.training(epsilon=2.0), r"epsilon must be a finite number >= 0 and <= 1, got 2.0"),
        (DQLConfig, lambda c: c.env_runners(explore=True), "explore by epsilon; leave explore=False"),
        (DQLConfig, lambda c: c.update_from_dict({"epsilonn": 0.2}), "DQLConfig has no setting 'epsilonn'"),
        (DQLConfig, lambda c: c.rl_module(model_config={"fcnet_hiddens": [4]}), "has no model_config 'fcnet_hiddens'"),
        (DQLConfig, lambda c: c.training(initial_value="x"), "initial_value must be a finite number, got 'x'"),
        (EBCDQLConfig, lambda c: c.training(communication_kwargs=5), "communication_kwargs must be a dict, got 5"),
        (EBCDQLConfig, lambda c: c.training(communication="lag"), "gate 'lag' decides about .* but payload 'transitions'"),
        (DAVIAConfig, lambda c: c.training(communication="espc"), "gate 'espc' decides about scores, but payload 'gradients'"),
        (DAVIAConfig, lambda c: c.training(communication="lag"), "gate 'lag' decides about all agents at once"),
        (TDEFConfig, lambda c: c.training(policy="best"), "unknown policy 'best'; choose from greedy, uniform"),
        (TDEFConfig, lambda c: c.training(epsilon=0.2), "epsilon=0.2 is of agents with policy='greedy'"),
        (TDEFConfig, lambda c: c.training(compression="top_k", compression_kwargs={"fraction": 2}), "fraction must be"),
    ],
)
def test_bad_settings(config_class: type, change: Callable[[Any], Any], message: str) -> None:
    config = tiny(config_class)
    with pytest.raises(ValueError, match=message):
        change(config).validate()


@pytest.mark.parametrize(("config_class", "population"), [(DQLConfig, 7), (EBCDQLConfig, 2)])
def test_a_run_continues_with_another_number_of_agents(config_class: type, population: int, ray_session: None) -> None:
    algorithm = tiny(config_class).build_algo()
    algorithm.train()
    other = tiny(config_class).training(population=population).build_algo()
    other.set_state(algorithm.get_state())
    np.testing.assert_array_equal(other.server.theta, algorithm.server.theta)
    result = other.train()
    assert len(other.server.ledger.messages_per_agent) == population
    assert agg(result)["updates"] == 2
    algorithm.stop()
    other.stop()


def test_a_loaded_module_is_begun_with(ray_session: None, tmp_path: Path) -> None:
    trained = tiny(DQLConfig).build_algo()
    for _ in range(3):
        trained.train()
    path = trained.get_module().save_to_path(tmp_path / "module")
    config = tiny(DQLConfig)
    spec = config.get_default_rl_module_spec()
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=spec.module_class, load_state_path=path))
    algorithm = config.build_algo()
    np.testing.assert_array_equal(algorithm.server.theta, trained.server.theta)
    assert trained.server.theta.any()
    trained.stop()
    algorithm.stop()
