"""Where the weights come to the same, AggPPO is RLlib's PPO."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_agg.aggregation.agents import AGENT, RETURN, agent_of
from tests.rllib.ppo_configs import TINY, tiny_ppo


def stock_learner(spaces: dict[str, Any], model: dict[str, Any] = TINY) -> Any:
    config = PPOConfig().environment("CartPole-v1").rl_module(model_config=model).training(lr=0.01)
    return config.build_learner(spaces=spaces)


def untagged(episodes: list[Any]) -> list[Any]:
    for episode in episodes:
        del episode.extra_model_outputs[AGENT], episode.extra_model_outputs[RETURN]
    return episodes


def compare(learner: Any, stock: Any, sample: Callable[[], list[Any]], **update: Any) -> None:
    learner.module.set_state(stock.module.get_state())
    for _ in range(5):
        results = []
        for one, episodes in ((learner, sample()), (stock, untagged(sample()))):
            np.random.seed(1)
            torch.manual_seed(1)
            results.append(one.update(episodes=episodes, timesteps={}, **update)["default_policy"])
        for name, parameter in stock.module["default_policy"].named_parameters():
            ours = learner.module["default_policy"].get_parameter(name)
            torch.testing.assert_close(ours, parameter, rtol=1e-4, atol=1e-5)
        for name in ("policy_loss", "vf_loss", "entropy", "mean_kl_loss", "total_loss", "curr_kl_coeff"):
            assert results[0][name].peek() == pytest.approx(results[1][name].peek(), rel=1e-3, abs=1e-5), name


@pytest.fixture
def equal_counts(sample: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    """As many steps of every agent, so that the mean over agents is the mean over samples."""

    def cut() -> list[Any]:
        longest = {}
        for episode in sample():
            agent = agent_of(episode)
            longest[agent] = max(longest.get(agent, episode), episode, key=len)
        length = min(map(len, longest.values()))
        return [episode[:length] for episode in longest.values()]

    return cut


def test_mean_is_stock_ppo(spaces: dict[str, Any], equal_counts: Callable[[], list[Any]]) -> None:
    compare(tiny_ppo(aggregation="mean").build_learner(spaces=spaces), stock_learner(spaces), equal_counts, num_epochs=3)


def test_samples_is_stock_ppo_in_any_minibatch(spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    learner = tiny_ppo(aggregation="samples").build_learner(spaces=spaces)
    compare(learner, stock_learner(spaces), sample, num_epochs=3, minibatch_size=32, shuffle_batch_per_epoch=True)


def test_samples_is_stock_ppo_with_a_recurrent_module(spaces: dict[str, Any]) -> None:
    model = {"fcnet_hiddens": [8], "use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 5}
    config = tiny_ppo(aggregation="samples").rl_module(model_config=model)
    config.validate()
    episodes = SingleAgentEnvRunner(config=config).sample(num_timesteps=200)
    compare(config.build_learner(spaces=spaces), stock_learner(spaces, model), lambda: copy.deepcopy(episodes))
