"""Every sample says whose it is, and every finished episode what it returned, whatever happens to it on the way."""

from __future__ import annotations

import copy
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_agg.aggregation.agents import AGENT, RETURN, AgentTagging, agent_of
from tests.rllib.ppo_configs import TINY, tiny_ppo
from tests.rllib.two_players import TwoPlayers, gradients_by_module

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class CountingReturns(RLlibCallback):
    """The return of every finished episode by sub-environment, added up step by step."""

    totals: dict[int, list[float]] = defaultdict(list)  # noqa: RUF012
    running: dict[int, float] = defaultdict(float)  # noqa: RUF012

    def on_episode_step(self, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        self.running[env_index] += episode.get_rewards(-1)

    def on_episode_end(self, *, env_index: int, **kwargs: Any) -> None:
        self.totals[env_index].append(self.running.pop(env_index))


def reported(episodes: list[Any]) -> dict[int, list[float]]:
    returns = defaultdict(list)
    for episode in episodes:
        assert set(episode.get_extra_model_outputs(AGENT)) == {agent_of(episode)}
        column = episode.get_extra_model_outputs(RETURN)
        assert np.isnan(column[:-1]).all()
        if episode.is_done:
            returns[agent_of(episode)].append(float(column[-1]))
        else:
            assert np.isnan(column[-1])
    return dict(returns)


def test_returns_span_chunks_and_rollouts(ray_session: None) -> None:
    config = tiny_ppo(num_envs=3).callbacks(CountingReturns)
    config.validate()
    assert config.callbacks_class == [CountingReturns, AgentTagging]
    config.validate()
    assert config.callbacks_class == [CountingReturns, AgentTagging]
    CountingReturns.totals.clear()
    runner = SingleAgentEnvRunner(config=config)
    found = defaultdict(list)
    for _ in range(20):  # 21 steps of 3 environments: most episodes take several of these
        for agent, returns in reported(runner.sample(num_timesteps=21)).items():
            found[agent] += returns
    assert found == CountingReturns.totals
    assert max(max(returns) for returns in found.values()) > 7


@pytest.mark.parametrize("to_numpy", [True, False])
def test_columns_survive_slicing_in_lists_and_arrays(to_numpy: bool, ray_session: None) -> None:
    config = tiny_ppo(num_envs=2).env_runners(episodes_to_numpy=to_numpy, episode_lookback_horizon=3)
    config.validate()
    runner = SingleAgentEnvRunner(config=config)
    runner.sample(num_timesteps=10)
    episode = max(runner.sample(num_timesteps=200), key=len)
    parts = [episode[:4], episode.slice(slice(4, None), len_lookback_buffer=2)]
    columns = [np.asarray(part.get_extra_model_outputs(RETURN)) for part in parts]
    np.testing.assert_array_equal(np.concatenate(columns), np.asarray(episode.get_extra_model_outputs(RETURN)))
    assert {agent_of(part) for part in parts} == {agent_of(episode)}


def test_a_reset_forgets_what_was_thrown_away(ray_session: None) -> None:
    config = tiny_ppo(num_envs=2)
    config.validate()
    runner = SingleAgentEnvRunner(config=config)
    for _ in range(10):
        runner.sample(num_timesteps=8, force_reset=True)
    tagging = runner._callbacks[-1]
    assert len(tagging._agents) == len(tagging._newest) == 2


@pytest.mark.parametrize(("agents", "expected"), [("sub_env", {3, 4, 5}), ("env_runner", {1})])
def test_second_runner_holds_the_next_agents(agents: str, expected: set[int], ray_session: None) -> None:
    config = tiny_ppo(num_envs=3, agents=agents).env_runners(num_env_runners=2, num_envs_per_env_runner=3)
    config.validate()
    assert config.num_agents == (6 if agents == "sub_env" else 2)
    runner = SingleAgentEnvRunner(config=config, worker_index=2)
    assert {agent_of(episode) for episode in runner.sample(num_timesteps=30)} == expected


@pytest.fixture
def two_modules() -> Any:
    return (
        tiny_ppo(num_envs=3, advantage_norm="agent")
        .environment(TwoPlayers)
        .env_runners(num_envs_per_env_runner=3)
        .multi_agent(
            policies={"p_one", "p_ten"},
            policy_mapping_fn=lambda agent, *args, **kwargs: f"p_{agent}",
            algorithm_config_overrides_per_module={"p_ten": {"aggregation": "sum"}},
        )
        .rl_module(model_config=TINY)
    )


def test_each_policy_gets_its_own_returns_and_rule(two_modules: Any, ray_session: None) -> None:
    two_modules.training(aggregation="r_weighted")
    two_modules.validate()
    runner = MultiAgentEnvRunner(config=two_modules)
    learner = two_modules.build_learner(spaces=runner.get_spaces())
    for _ in range(3):
        results = learner.update(episodes=copy.deepcopy(runner.sample(num_timesteps=33)), timesteps={})
    assert learner.aggregator("p_one").returns.tolist() == [5.0] * 3
    assert learner.aggregator("p_ten").returns.tolist() == [20.0] * 3
    assert results["p_ten"]["agg"]["weight_max"].peek() == 1.0
    assert results["p_one"]["agg"]["weight_max"].peek() == pytest.approx(2 / 3)
    assert all(torch.isfinite(p).all() for module in learner.module.values() for p in module.parameters())


def test_untrained_policy_stays_as_it_is(two_modules: Any, ray_session: None) -> None:
    two_modules.multi_agent(policies_to_train=["p_one"])
    two_modules.validate()
    runner = MultiAgentEnvRunner(config=two_modules)
    learner = two_modules.build_learner(spaces=runner.get_spaces())
    before = copy.deepcopy(learner.module.get_state())
    results = learner.update(episodes=runner.sample(num_timesteps=33), timesteps={})
    after = learner.module.get_state()
    np.testing.assert_equal(after["p_ten"], before["p_ten"])
    assert any((after["p_one"][name] != value).any() for name, value in before["p_one"].items())
    assert "agg" in results["p_one"]
    assert "agg" not in results.get("p_ten", {})


@pytest.mark.slow
def test_two_learners_agree_on_policies_that_come_in_another_order(two_modules: Any, ray_session: None) -> None:
    """Sums over learners are taken policy by policy."""
    two_modules.training(aggregation="l_weighted", advantage_norm="none").learners(shard_by_agent=True)
    two_modules.validate()
    runner = MultiAgentEnvRunner(config=two_modules)
    alone = two_modules.build_learner(spaces=runner.get_spaces())
    config = two_modules.copy(copy_frozen=False).learners(num_learners=2)
    group = config.build_learner_group(spaces=runner.get_spaces())
    alone.module.set_state(group.get_weights())
    episodes = runner.sample(num_timesteps=33)
    alone.update(episodes=copy.deepcopy(episodes), timesteps={})
    for episode in episodes:
        if agent_of(episode) == 1:  # alone on the second learner
            episode.agent_episodes = dict(reversed(episode.agent_episodes.items()))
    group.update(episodes=episodes, num_epochs=1, minibatch_size=None, timesteps={})
    expected = gradients_by_module(alone)
    for result in group.foreach_learner(gradients_by_module):
        torch.testing.assert_close(result.get(), expected, rtol=1e-5, atol=1e-5)
    group.shutdown()
