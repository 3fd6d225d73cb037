"""Evolution strategies on RLlib: the core's numbers, whoever runs the agents, whatever dies, wherever it goes on."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray import cloudpickle, tune
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_agg.episodes import open_environments
from rl_agg.evolution import MLP, EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.evolution.normalization import normalized
from rl_agg.seeding import stream
from rllib_agg import ES, ESConfig
from rllib_agg.es import ESModule
from rllib_agg.tabular import TableModule

cloudpickle.register_pickle_by_value(sys.modules[__name__])

MODULE = "default_policy"
GATED = {"communication": "espc", "expected_messages": 4, "fitness": "raw"}


def tiny_es(num_env_runners: int = 0, **training: Any) -> ESConfig:
    return (
        ESConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=num_env_runners)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .training(population=10, noise_stdev=0.1, lr=0.05, **training)
        .fault_tolerance(delay_between_env_runner_restarts_s=0.0, env_runner_health_probe_timeout_s=20.0)
        .debugging(seed=3)
    )


def core(updates: int, **settings: Any) -> EvolutionStrategy:
    """The same run without Ray."""
    evaluator = PopulationEvaluator(open_environments("CartPole-v1", {}), hidden=[8])
    size = 4 if settings.pop("normalize_observations", False) else None
    config = tiny_es(**settings)
    start = evaluator.network.initial(stream("start", 3))
    strategy = EvolutionStrategy(start, run=3, observation_size=size, settings=config.evolution)
    agents = EvolutionAgents(evaluator, config.evolution)
    for _ in range(updates):
        strategy.receive(agents.run(strategy.order(), np.arange(11)))
    return strategy


def agg(result: dict[str, Any]) -> dict[str, Any]:
    logged: dict[str, Any] = result["learners"][MODULE]["agg"]
    return logged


@pytest.fixture(scope="module")
def remote(ray_session: None) -> Iterator[ES]:
    """Two runners."""
    algorithm = tiny_es(2, normalize_observations=True, **GATED).build_algo()
    yield algorithm
    algorithm.stop()


def test_two_runners_give_the_parameters_of_the_core(remote: ES, tmp_path: Path) -> None:
    for _ in range(6):
        result = remote.train()
    expected = core(6, normalize_observations=True, **GATED)
    assert (remote.centre.theta == expected.theta).all()
    assert (remote.module.read() == expected.theta).all()
    logged = agg(result)
    assert logged["messages"] == expected.ledger.messages
    assert logged["bytes"] == expected.ledger.bytes == expected.ledger.messages * (6 + 4 * 9)
    assert logged["physical_bytes"] > logged["bytes"]
    assert logged["mu_frequency"] == expected.measures["mu_frequency"]
    assert result["env_runners"]["episode_return_mean"] == logged["mu_reward"]  # gamma is 1
    assert result["env_runners"]["num_episodes_lifetime"] == 66
    assert result["env_runners"]["centre"]["episode_return_mean"] > 0


def test_killed_runner_changes_nothing(remote: ES) -> None:
    before = remote.centre.num_updates
    pids = remote.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(pids[0], signal.SIGKILL)
    result = remote.train()
    assert remote.centre.num_updates == before + 1
    expected = core(before + 1, normalize_observations=True, **GATED)
    assert (remote.centre.theta == expected.theta).all()
    assert agg(result)["messages"] == expected.ledger.messages
    assert agg(result)["masked_agents"] == 0


def test_all_runners_killed_tries_again(remote: ES) -> None:
    remote.train()
    before = remote.centre.num_updates
    pids = remote.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for _ in range(10):
        remote.train()
        if remote.centre.num_updates >= before + 2:
            break
    expected = core(remote.centre.num_updates, normalize_observations=True, **GATED)
    assert remote.centre.num_updates >= before + 2
    assert (remote.centre.theta == expected.theta).all()


@pytest.fixture(scope="module")
def local(ray_session: None) -> Iterator[ES]:
    algorithm = tiny_es(communication="deviation", expected_messages=3).build_algo()
    yield algorithm
    algorithm.stop()


def test_checkpoint_goes_on_to_the_bit(local: ES, tmp_path: Path) -> None:
    for _ in range(4):
        local.train()
    path = local.save_to_path(tmp_path / "checkpoint")
    saved = local.centre.state_dict()
    on = [local.train() for _ in range(3)]
    restored = ES.from_checkpoint(path)
    np.testing.assert_equal(restored.centre.state_dict(), saved)
    again = [restored.train() for _ in range(3)]
    np.testing.assert_equal(restored.centre.state_dict(), local.centre.state_dict())
    for one, other in zip(on, again, strict=True):
        assert one["env_runners"]["episode_return_mean"] == other["env_runners"]["episode_return_mean"]
        assert one["num_env_steps_sampled_lifetime"] == other["num_env_steps_sampled_lifetime"]
        assert agg(one) == agg(other)
    local.restore_from_path(path)  # older than what is in place
    np.testing.assert_equal(local.centre.state_dict(), saved)
    assert (local.module.read() == saved["theta"]).all()
    restored.stop()


def test_module_acts_as_the_core_does(local: ES) -> None:
    local.train()
    module = local.get_module()
    network = MLP((4, 8, 2), "tanh")
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    outputs = module.forward_inference({Columns.OBS: torch.tensor(observations)})[Columns.ACTION_DIST_INPUTS]
    parameters = np.repeat(local.centre.theta[None], 5, axis=0)
    np.testing.assert_allclose(outputs.numpy(), network.forward(network.stack(parameters), observations), atol=1e-6)
    assert local.evaluate()["env_runners"]["episode_return_mean"] > 0


def test_weights_loaded_by_themselves_are_gone_on_from(local: ES) -> None:
    local.module.write(np.full(58, 0.25, np.float32), None)
    local.train()
    assert np.abs(local.centre.theta - 0.25).max() < 0.1


def test_an_older_state_in_memory_brings_back_the_older_parameters(ray_session: None) -> None:
    algorithm = tiny_es().build_algo()
    algorithm.train()
    state, theta = algorithm.get_state(), algorithm.centre.theta.copy()
    first = algorithm.train()
    later = algorithm.centre.theta.copy()
    algorithm.train()
    algorithm.set_state(state)
    np.testing.assert_array_equal(algorithm.module.read(), theta)
    algorithm.train()
    np.testing.assert_array_equal(algorithm.centre.theta, later)
    assert agg(first)["updates"] == algorithm.centre.num_updates == 2
    algorithm.stop()


def test_a_loaded_module_is_begun_with(ray_session: None, tmp_path: Path) -> None:
    trained = tiny_es().build_algo()
    trained.train()
    path = trained.get_module().save_to_path(tmp_path / "module")
    config = tiny_es()
    config.rl_module(
        rl_module_spec=RLModuleSpec(module_class=ESModule, load_state_path=path, model_config=config.model_config)
    )
    algorithm = config.build_algo()
    np.testing.assert_array_equal(algorithm.centre.theta, trained.centre.theta)
    with pytest.raises(ValueError, match="load_state_path does not go with normalize_observations=True"):
        config.copy(copy_frozen=False).training(normalize_observations=True).validate()
    trained.stop()
    algorithm.stop()


class Noisy(gym.Wrapper[Any, Any, Any, Any]):
    """Pendulum of 20 steps that pays NaN in some episodes, or raises."""

    def __init__(self, config: Any) -> None:
        super().__init__(gym.make("Pendulum-v1", max_episode_steps=20))
        self._config = config
        self._seed = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._seed = seed or 0
        if self._config.get("raises"):
            raise OSError("no power")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        return observation, float("nan") if self._seed % 3 == 0 else reward, *rest


def test_nan_returns_are_masked_and_counted(ray_session: None) -> None:
    algorithm = tiny_es(max_episode_steps=20).environment(Noisy).build_algo()
    result = algorithm.train()
    masked = agg(result)["masked_agents"]
    assert 0 < masked < 10
    assert agg(result)["messages"] == 10 - masked
    assert np.isfinite(algorithm.centre.theta).all()
    assert np.isfinite(result["env_runners"]["episode_return_mean"])
    algorithm.stop()


def test_continuous_actions_and_sampling(ray_session: None) -> None:
    config = tiny_es(normalize_observations=True).environment("Pendulum-v1").env_runners(explore=True)
    algorithm = config.rl_module(model_config={"fcnet_hiddens": [4], "action_noise_stdev": 0.3}).build_algo()
    for _ in range(2):
        result = algorithm.train()
    assert result["num_env_steps_sampled_lifetime"] == 2 * 11 * 200
    module = algorithm.get_module()
    observations = torch.tensor([[1.0, 0.0, 8.0]])
    mean, log_stdev = module.forward_inference({Columns.OBS: observations})[Columns.ACTION_DIST_INPUTS][0]
    assert log_stdev.exp().item() == pytest.approx(0.3)
    statistics = algorithm.centre.statistics
    assert statistics.count == 2 * 10 * 200
    scaled = normalized(observations.numpy(), statistics.mean, statistics.deviation)
    network = MLP((3, 4, 1), "tanh")
    expected = network.forward(network.stack(algorithm.centre.theta[None]), scaled)[0, 0]
    assert mean.item() == pytest.approx(expected, abs=1e-5)
    assert algorithm.evaluate()["env_runners"]["episode_return_mean"] < 0
    algorithm.stop()


def test_grid_world(ray_session: None) -> None:
    algorithm = tiny_es().environment("rl_agg/SimpleGrid-v0").build_algo()
    result = algorithm.train()
    assert -100 <= result["env_runners"]["episode_return_mean"] < 0
    assert algorithm.evaluate()["env_runners"]["episode_return_mean"] < 0
    algorithm.stop()


def test_an_environments_error_is_told(ray_session: None) -> None:
    algorithm = tiny_es(max_episode_steps=20).environment(Noisy, env_config={"raises": True}).build_algo()
    with pytest.raises(RuntimeError, match="no power"):
        algorithm.train()
    algorithm.stop()


def test_tune_searches_over_gates(ray_session: None, tmp_path: Path) -> None:
    config = tiny_es(communication=tune.grid_search(["random", "deviation"]), expected_messages=2)
    run_config = tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(tmp_path))
    results = tune.Tuner(ES, param_space=config, run_config=run_config).fit()
    assert not results.errors
    assert {result.config["communication"] for result in results} == {"random", "deviation"}
    for result in results:
        assert agg(result.metrics)["messages"] < 20
        assert result.metrics["env_runners"]["centre"]["episode_return_mean"] > 0


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
        (lambda c: c.training(communication="espc"), "'espc' needs expected_messages"),
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
        (lambda c: c.env_runners(rollout_fragment_length=4), "ESConfig does not use rollout_fragment_length$"),
        (lambda c: c.env_runners(batch_mode="complete_episodes"), "ESConfig does not use batch_mode$"),
        (lambda c: c.env_runners(gym_env_vectorize_mode="async"), "does not use gym_env_vectorize_mode in training"),
        (lambda c: c.rl_module(model_config={"fcnet_hiddens": ["a"]}), "each of fcnet_hiddens must be an integer >= 1"),
        (lambda c: c.rl_module(model_config={"fcnet_hiddens": [8.0]}), "each of fcnet_hiddens must be .*, got 8.0"),
        (lambda c: c.training(fitness=["raw"]), "unknown fitness .*choose from centered, ranks, raw"),
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


def test_connectors_may_be_there_in_evaluation(ray_session: None) -> None:
    flattened = tiny_es().env_runners(env_to_module_connector=lambda env, spaces, device: FlattenObservations())
    algorithm = tiny_es().evaluation(evaluation_interval=1, evaluation_duration=2, evaluation_config=flattened).build_algo()
    assert algorithm.train()["evaluation"]["env_runners"]["num_episodes"] == 2
    algorithm.stop()


def test_settings_from_a_dict() -> None:
    config = tiny_es().update_from_dict({"optimizer": "momentum", "noise_stdev": 0.3, "communication_kwargs": {"window": 3}})
    assert (config.optimizer, config.noise_stdev, config.communication_kwargs) == ("momentum", 0.3, {"window": 3})


class Unlimited(gym.Env[Any, Any]):
    """Never ends."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, config: Any = None) -> None:
        pass

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("env", [Unlimited, "CartPole-v1"])
def test_the_time_limit_holds_in_evaluation(env: Any, ray_session: None) -> None:
    config = tiny_es(max_episode_steps=5).environment(env)
    algorithm = config.evaluation(evaluation_interval=1, evaluation_config={"num_envs_per_env_runner": 3}).build_algo()
    evaluated = algorithm.train()["evaluation"]["env_runners"]
    assert (evaluated["episode_len_max"], evaluated["num_episodes"]) == (5, 10)
    algorithm.stop()
    other = config.copy(copy_frozen=False).evaluation(evaluation_config={"gym_env_vectorize_mode": "async"})
    with pytest.raises(ValueError, match="max_episode_steps=5 needs gym_env_vectorize_mode='sync'"):
        other.build_algo()


class Positive(Unlimited):
    """Takes actions of 0 and more, and pays for small ones."""

    action_space = gym.spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, 1]))

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return np.ones(2, np.float32), float(action[1] - action[0]), False, False, {}


class Narrow(Positive):
    """Takes actions between bounds."""

    action_space = gym.spaces.Box(np.float32([0, -2]), np.float32([2, 1]))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("env", [Positive, Narrow])
def test_evaluation_acts_as_agents_do(env: Any, normalize: bool, ray_session: None) -> None:
    config = tiny_es(max_episode_steps=5).training(lr=1.0)
    algorithm = config.environment(env, normalize_actions=normalize).build_algo()
    for _ in range(5):
        algorithm.train()
    evaluated = algorithm.evaluate()["env_runners"]
    assert evaluated["episode_return_mean"] == pytest.approx(algorithm.train()["env_runners"]["centre"]["episode_return_mean"])
    algorithm.stop()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "sgd", "communication": "deviation", "expected_messages": 3}),
        ({"communication": "deviation", "expected_messages": 3}, {"optimizer": "sgd"}),
        ({"optimizer": "sgd"}, {}),
    ],
)
def test_another_gate_or_optimizer_begins_afresh(
    before: dict[str, Any], after: dict[str, Any], ray_session: None, tmp_path: Path
) -> None:
    saved, other = tiny_es(**before).build_algo(), tiny_es(**after).build_algo()
    saved.train()
    other.train()
    other.restore_from_path(saved.save_to_path(tmp_path / "checkpoint"))
    np.testing.assert_array_equal(other.centre.theta, saved.centre.theta)
    fresh = tiny_es(**after).build_algo()
    for name in ("run", "num_updates", "theta"):
        setattr(fresh.centre, name, getattr(saved.centre, name))
    fresh.write_module()
    other.train()
    fresh.train()
    np.testing.assert_array_equal(other.centre.theta, fresh.centre.theta)
    for algorithm in (saved, other, fresh):
        algorithm.stop()


def test_a_network_that_does_not_fit_changes_nothing(ray_session: None, tmp_path: Path) -> None:
    saved, other = tiny_es().build_algo(), tiny_es().rl_module(model_config={"fcnet_hiddens": [4]}).build_algo()
    saved.train()
    theta = other.centre.theta.copy()
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.restore_from_path(saved.save_to_path(tmp_path / "checkpoint"))
    np.testing.assert_array_equal(other.module.read(), theta)
    assert (other.centre.num_updates, other.train()["training_iteration"]) == (0, 1)
    saved.stop()
    other.stop()


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
def test_bad_environments_are_told_at_build(env: Any, settings: dict[str, Any], message: str, ray_session: None) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_es(**settings).environment(env).build_algo()


def test_module_is_an_rl_module() -> None:
    space = gym.spaces.Box(-1, 1, (2, 3), np.float32)
    model = {"fcnet_hiddens": [], "fcnet_activation": "relu", "action_noise_stdev": 0.0}
    module = ESModule(observation_space=space, action_space=gym.spaces.Box(-1, 1, (2,)), model_config=model)
    outputs = module.forward_inference({Columns.OBS: torch.zeros(4, 2, 3)})[Columns.ACTION_DIST_INPUTS]
    distribution = module.get_inference_action_dist_cls().from_logits(outputs).to_deterministic()
    assert distribution.sample().shape == (4, 2)
