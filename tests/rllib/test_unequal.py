"""Every sub-environment gets the disturbances of its episodes' agent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rl_agg.envs.disturbances import as_disturbances
from rllib_agg import A3CConfig, AggPPOConfig, DAVIAConfig, DQLConfig, ESConfig
from rllib_agg.aggregation.agents import agent_of
from rllib_agg.envs.unequal_envs import UnequalEnvs, register_unequal_env
from tests.rllib.ppo_configs import TINY, tiny_ppo

SCALED = [{"agents": [agent], "reward_scale": 10.0**agent} for agent in range(1, 6)]
"""CartPole pays 1 a step, so that here a step of agent a pays 10 to the a."""


@pytest.fixture(scope="module", autouse=True)
def registered(ray_session: None) -> Iterator[None]:
    register_unequal_env("scaled", "CartPole-v1", SCALED, num_envs_per_env_runner=3)
    register_unequal_env("scaled_runners", "CartPole-v1", SCALED[:1], agents="env_runner", num_envs_per_env_runner=3)
    return


def scaled_ppo(num_env_runners: int = 2, **env_runners: Any) -> AggPPOConfig:
    config = tiny_ppo(num_envs=3).environment("scaled")
    return config.env_runners(num_env_runners=num_env_runners, num_envs_per_env_runner=3, **env_runners)


def rewards_by_agent(runner: SingleAgentEnvRunner) -> dict[int, set[float]]:
    rewards: dict[int, set[float]] = {}
    for episode in runner.sample(num_timesteps=60):
        rewards.setdefault(agent_of(episode), set()).update(np.unique(episode.get_rewards()).tolist())
    return rewards


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_each_sub_environment_has_its_agents_disturbance(mode: str) -> None:
    config = scaled_ppo(gym_env_vectorize_mode=mode)
    config.validate()
    runner = SingleAgentEnvRunner(config=config, worker_index=2)
    assert rewards_by_agent(runner) == {3: {1e3}, 4: {1e4}, 5: {1e5}}
    runner.make_env()  # as after a fault
    assert rewards_by_agent(runner) == {3: {1e3}, 4: {1e4}, 5: {1e5}}
    runner.stop()


def test_on_the_local_runner() -> None:
    register_unequal_env("scaled_locally", "CartPole-v1", SCALED[:2], num_envs_per_env_runner=3)
    config = scaled_ppo(num_env_runners=0).environment("scaled_locally")
    config.validate()
    assert rewards_by_agent(SingleAgentEnvRunner(config=config)) == {0: {1.0}, 1: {10.0}, 2: {100.0}}


def first_rewards() -> list[float]:
    envs, context = (
        UnequalEnvs("CartPole-v1", as_disturbances(SCALED), num_envs_per_env_runner=3),
        EnvContext({}, worker_index=1),
    )
    rewards = []
    for env in (envs(context), envs(context)):
        env.reset(seed=0)
        rewards.append(float(env.step(0)[1]))
    return rewards


def test_in_a_process_of_the_users_own() -> None:
    """A sweep's, say; that of Gymnasium's vector environments makes one environment alone."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(first_rewards).result() == first_rewards() == [1.0, 10.0]


def test_agents_that_are_env_runners() -> None:
    config = scaled_ppo().environment("scaled_runners").training(agents="env_runner")
    config.validate()
    assert rewards_by_agent(SingleAgentEnvRunner(config=config, worker_index=1)) == {0: {1.0}}
    assert rewards_by_agent(SingleAgentEnvRunner(config=config, worker_index=2)) == {1: {10.0}}
    A3CConfig().environment("scaled_runners").env_runners(num_env_runners=2, num_envs_per_env_runner=3).validate()


def test_an_algorithm_learns_from_the_disturbed_returns() -> None:
    register_unequal_env("learned_locally", "CartPole-v1", SCALED[:2], num_envs_per_env_runner=3)
    config = scaled_ppo(num_env_runners=0).environment("learned_locally").training(aggregation="r_weighted")
    algorithm = config.build_algo()
    for _ in range(3):
        algorithm.train()
    learner = algorithm.learner_group.foreach_learner(lambda learner: learner).result_or_errors[0].get()
    returns = learner.aggregator("default_policy").returns
    assert all(8 <= returns[a] / 10.0**a < 200 for a in range(3))  # CartPole's returns
    algorithm.stop()


def test_stock_algorithms_take_them_too() -> None:
    config = PPOConfig().environment("scaled").rl_module(model_config=TINY)
    runner = SingleAgentEnvRunner(config=config.env_runners(num_env_runners=1, num_envs_per_env_runner=3), worker_index=1)
    rewards = [np.unique(episode.get_rewards()).tolist() for episode in runner.sample(num_timesteps=6)]
    assert sorted(rewards) == [[1.0], [10.0], [100.0]]


def test_evaluation_on_other_environments() -> None:
    config = scaled_ppo().evaluation(evaluation_interval=1, evaluation_num_env_runners=1)
    config.validate()
    config.get_evaluation_config_object().validate()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: scaled_ppo(num_env_runners=1), "agent 3 cannot be disturbed: agents are numbered 0 to 2"),
        (
            lambda: tiny_ppo(num_envs=4).environment("scaled"),
            "'scaled' is registered with num_envs_per_env_runner=3, and the algorithm has num_envs_per_env_runner=4",
        ),
        (lambda: scaled_ppo().training(agents="env_runner"), "registered with agents='sub_env'"),
    ],
)
def test_wrong_numbers_of_agents(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config().build_algo()


@pytest.mark.parametrize("config", [ESConfig, DQLConfig, DAVIAConfig])
def test_agents_without_environments_of_their_own(config: Any) -> None:
    with pytest.raises(ValueError, match=f"{config.__name__}'s agents have no environments of their own, .* 'scaled' differ"):
        config().environment("scaled").validate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agents": "envs"}, "unknown agents 'envs'; choose from env_runner, sub_env"),
        ({"num_envs_per_env_runner": 0}, "num_envs_per_env_runner must be an integer >= 1, got 0"),
        ({"disturbances": [{"agents": [0], "reward_scal": 2}]}, "a disturbance has no setting 'reward_scal'"),
        ({"disturbances": [{"agents": []}]}, "agents must be numbers >= 0 of those concerned"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_unequal_env("bad", "CartPole-v1", **{"disturbances": SCALED, **settings})


def test_more_environments_than_registered() -> None:
    envs, context = UnequalEnvs("CartPole-v1", ()), EnvContext({}, worker_index=1)
    envs(context)
    with pytest.raises(ValueError, match="larger than the 1 that these environments were registered with"):
        envs(context)


def test_vectorised_entry_point_is_refused() -> None:
    with pytest.raises(ValueError, match="leave gym_env_vectorize_mode at 'sync'"):
        UnequalEnvs("CartPole-v1", ())(EnvContext({}, worker_index=1) | {"num_envs": 3})


def test_arguments_of_the_environment() -> None:
    envs = UnequalEnvs("CartPole-v1", (), env_kwargs={"render_mode": "rgb_array"})
    env = envs(EnvContext({"sutton_barto_reward": True}, worker_index=1))
    env.reset(seed=0)
    assert (env.render_mode, env.step(0)[1]) == ("rgb_array", 0.0)  # where CartPole pays 1 without the setting
