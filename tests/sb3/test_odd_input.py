"""Odd input: one clear error, one warning, or it just works."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_agg import AggA2C, AggPPO, AggRecurrentPPO, AggregationMixin, network
from tests.sb3.flattened import parameters
from tests.sb3.worlds import Walk, cartpoles, walks


def ppo(env: Any = None, **settings: Any) -> AggPPO:
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu", **settings}
    return AggPPO("MlpPolicy", cartpoles(4) if env is None else env, **settings)


# Errors -------------------------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_split_is_fine_in_stock_order() -> None:
    with pytest.warns(UserWarning, match="truncated mini-batch"):
        model = ppo(batch_size=30, minibatches="stock", aggregation="l_weighted")
    model.learn(64)
    assert np.isfinite(model.agent_weights).all()


def test_an_off_policy_algorithm_is_refused() -> None:
    with pytest.raises(TypeError, match=r"AggSAC: .*on-policy.*SAC has none"):
        type("AggSAC", (AggregationMixin, SAC), {})


def test_an_algorithm_that_goes_around_the_hooks_is_refused() -> None:
    from sb3_contrib import TRPO

    model = type("AggTRPO", (AggregationMixin, TRPO), {})("MlpPolicy", cartpoles(2), n_steps=16, batch_size=16, device="cpu")
    with pytest.raises(RuntimeError, match=r"AggTRPO\.train\(\) never called policy\.evaluate_actions"):
        model.learn(32)


def test_unknown_network_size() -> None:
    with pytest.raises(ValueError, match="unknown network size 'huge'; choose from large, medium, small"):
        network("huge")


@pytest.mark.parametrize(("size", "expected"), [("small", 9_000), ("medium", 45_000), ("large", 750_000)])
def test_network_sizes_are_the_papers(size: str, expected: int) -> None:
    model = ppo(policy_kwargs=network(size))
    assert len(parameters(model)) == pytest.approx(expected, rel=0.02)


# Warnings -----------------------------------------------------------------------------------------------------------------


def test_without_monitor_it_says_so_once_and_trains_on() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = ppo(walks({}, {}, {}, {}, monitored=False), aggregation="r_weighted").learn(256)
    assert sum("VecMonitor" in str(warning.message) for warning in caught) == 1
    np.testing.assert_allclose(model.agent_weights, 0.5)
    assert model.num_timesteps == 256


def test_a_rule_without_returns_needs_no_monitor() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppo(walks({}, {}, {}, {}, monitored=False), aggregation="l_weighted").learn(128)


def test_vec_monitor_will_do() -> None:
    env = VecMonitor(walks({"reward": 1.0}, {"reward": 2.0}, {"reward": 3.0}, {"reward": 4.0}, monitored=False))
    model = ppo(env, aggregation="r_weighted").learn(64)
    np.testing.assert_allclose(model.agent_returns, [5, 10, 15, 20])


def test_agents_that_never_finish_weigh_equally() -> None:
    with pytest.warns(UserWarning, match="no agent has finished an episode yet") as caught:
        model = ppo(walks(*[{"length": None}] * 4), aggregation="r_weighted").learn(192)
    assert sum("no agent has finished" in str(warning.message) for warning in caught) == 1
    np.testing.assert_allclose(model.agent_weights, 0.5)


def test_one_agent_that_never_finishes_counts_like_the_mean_of_the_others() -> None:
    rewards = [1.0, 2.0, 6.0]
    env = walks(*[{"reward": reward} for reward in rewards], {"length": None})
    model = ppo(env, aggregation="r_weighted").learn(64)
    returns = np.array([5, 10, 30, 15])
    np.testing.assert_allclose(model.agent_weights, (returns - 5) / (returns - 5).sum() + 1 / 4, rtol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
@pytest.mark.parametrize("rule", ["mean", "r_weighted", "l_weighted"])
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_an_agent_with_a_broken_reward_is_masked_until_it_recovers(rule: str, minibatches: str, broken: float) -> None:
    """Agent 2 is broken in its second rollout only."""
    env = walks({"length": 4}, {"length": 4}, {"length": 4, "broken": broken, "broken_steps": range(18, 20)}, {"length": 4})
    model = ppo(env, aggregation=rule, minibatches=minibatches)
    seen = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append((model.agent_weights.copy(), model.logger.name_to_value["agg/masked_agents"]))

    with pytest.warns(UserWarning, match="agent 2 had a NaN or infinite observation, reward") as caught:
        model.learn(16 * 4 * 4, callback=Watch())
    assert sum("agent 2 had" in str(warning.message) for warning in caught) == 1
    masked = [count for _, count in seen[1:]]
    assert masked == [0, 1, 0]
    assert seen[2][0][2] == 0
    if rule == "mean":
        np.testing.assert_allclose(seen[2][0], [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
    assert torch.isfinite(parameters(model)).all()
    assert model.agent_returns[2] == 4


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_masked_agents_leave_the_update_of_the_others_alone() -> None:
    """Three healthy agents and a broken one learn what the three learn alone."""
    settings = {"batch_size": None, "aggregation": "r_weighted", "n_epochs": 3}
    healthy = [{"length": 4, "reward": reward} for reward in (1.0, 2.0, 3.0)]
    four = ppo(walks(*healthy, {"length": 4, "broken": np.nan, "broken_steps": range(99)}), **settings)
    three = ppo(walks(*healthy), **settings)
    with pytest.warns(UserWarning, match="agent 3 had"):
        four.learn(64)
    copy_rollout(three, four)
    three.train()
    torch.testing.assert_close(parameters(three), parameters(four), rtol=1e-5, atol=1e-7)


def copy_rollout(target: AggPPO, source: AggPPO) -> None:
    """Give a model the rollout of another's first agents, unnormalised as it was collected."""
    target.learn(16 * target.n_envs)  # sets the model up; its own update is undone below
    buffer, other = target.rollout_buffer, source.rollout_buffer
    buffer.reset()
    steps, agents = buffer.buffer_size, buffer.n_envs
    for name in ("observations", "actions", "values", "log_probs", "returns"):
        array = getattr(other, name).reshape(other.n_envs, steps, *getattr(buffer, name).shape[2:])[:agents]
        setattr(buffer, name, array.swapaxes(0, 1).copy())
    buffer.advantages, buffer.full = buffer.returns - buffer.values, True
    fresh = ppo(walks(*[{"length": 4}] * source.n_envs), batch_size=None)
    target.set_parameters(fresh.get_parameters())
    target.agent_returns = source.agent_returns[:agents].copy()


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_when_every_agent_is_broken_the_update_is_skipped() -> None:
    env = walks(*[{"length": 4, "broken": np.nan, "broken_steps": range(16, 32)}] * 4)
    model = ppo(env, aggregation="r_weighted")
    model.learn(64)
    before = parameters(model)
    with pytest.warns(UserWarning, match="agent 0, 1, 2, 3 had"):
        model.learn(64, reset_num_timesteps=False)
    assert torch.equal(parameters(model), before)
    assert model.logger.name_to_value["agg/skipped_updates"] == 1
    assert model.logger.name_to_value["agg/masked_agents"] == 4
    model.learn(64, reset_num_timesteps=False)
    assert not torch.equal(parameters(model), before)


def test_an_agent_whose_gradient_overflows_is_left_out_of_that_step() -> None:
    """Finite rollout, infinite loss: agent 1's returns are beyond what a squared error can hold."""
    model = ppo(walks({"length": 4}, {"length": 4}), batch_size=None, n_epochs=1, aggregation="mean")
    model.learn(32)
    before = parameters(model)
    fill_with_overflow(model, agents=[1])
    model.train()
    after = parameters(model)
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)
    np.testing.assert_array_equal(model.agent_weights, [1, 0])
    assert model.logger.name_to_value["agg/masked_agents"] == 1


@pytest.mark.parametrize("rule", ["mean", "l_weighted"])
def test_a_step_without_any_finite_gradient_is_skipped(rule: str) -> None:
    model = ppo(walks({"length": 4}, {"length": 4}), batch_size=None, n_epochs=1, aggregation=rule)
    model.learn(32)  # gives Adam moments that would move parameters even at a zero gradient
    before = parameters(model)
    fill_with_overflow(model, agents=[0, 1])
    model.train()
    assert torch.equal(parameters(model), before)
    assert model.logger.name_to_value["agg/skipped_updates"] == 1


def fill_with_overflow(model: AggPPO, agents: list[int]) -> None:
    """Old log-probabilities so low that the ratio, and with it the gradient, overflows."""
    callback = model._init_callback(None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    model.rollout_buffer.log_probs[:, agents] = -200.0


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_statistics_that_a_nan_ruined_for_good_are_named() -> None:
    env = walks({"length": 4}, {"length": 4, "broken": np.nan, "broken_steps": range(2, 3)})
    with pytest.warns(UserWarning, match="VecNormalize keeps a NaN in its statistics for good"):
        ppo(VecNormalize(env), batch_size=None).learn(96)


def test_who_is_masked_still_gets_the_answer() -> None:
    env = walks({"length": 4}, {"length": 4, "broken": np.nan, "broken_steps": range(16)})
    with pytest.warns(UserWarning, match="agent 1 had"):
        model = ppo(env, batch_size=None, n_epochs=1).learn(32)
    size = sum(parameter.numel() for parameter in model.policy.parameters())
    assert model.ledger.messages_per_agent.tolist() == [1, 0]
    assert model.ledger.bytes_down == 2 * 4 * size


@pytest.mark.parametrize("rule", [lambda signals: signals.returns > 0, lambda signals: torch.ones(4, dtype=torch.long)])
def test_weights_of_a_rule_of_ones_own_may_be_counts_or_truths(rule: Any) -> None:
    model = ppo(aggregation=rule).learn(128)
    np.testing.assert_array_equal(model.agent_weights, np.ones(4))


def test_weights_that_are_not_finite_are_told_with_the_rules_name() -> None:
    def shares(signals: Any) -> torch.Tensor:
        return signals.returns / (0 * signals.returns.sum())

    with pytest.raises(ValueError, match="shares returned weights that are not finite"):
        ppo(aggregation=shares).learn(64)


class Lives(gym.Wrapper):
    """Ends an episode at every fifth step, around Monitor, and goes on where it was, as Atari's lives do."""

    over = True

    def reset(self, **kwargs: Any) -> Any:
        return self.env.reset(**kwargs) if self.over else (self.last, {})

    def step(self, action: Any) -> Any:
        self.steps = getattr(self, "steps", 0) + 1
        self.last, reward, self.over, truncated, info = self.env.step(action)
        return self.last, reward, self.over or self.steps % 5 == 0, truncated, info


def test_episodes_that_end_before_their_return_is_known_are_no_fault_where_monitor_is_there() -> None:
    env = DummyVecEnv([lambda: Lives(Monitor(Walk(length=20))) for _ in range(4)])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="an episode ended without a return")
        model = ppo(env, aggregation="r_weighted", n_steps=64).learn(256)
    np.testing.assert_array_equal(model.agent_returns, [20.0] * 4)


# Just works ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["sum", "mean", "samples", "r_weighted", "l_weighted"])
@pytest.mark.parametrize("cls", [AggPPO, AggA2C, AggRecurrentPPO])
def test_one_environment(cls: Any, rule: str) -> None:
    policy = "MlpLstmPolicy" if cls is AggRecurrentPPO else "MlpPolicy"
    small = {"policy_kwargs": {"lstm_hidden_size": 8}, "n_epochs": 1} if cls is AggRecurrentPPO else {}
    model = cls(policy, "CartPole-v1", aggregation=rule, n_steps=32, seed=0, device="cpu", **small).learn(128)
    expected = {"sum": 1, "mean": 1, "samples": 1, "r_weighted": 2, "l_weighted": 2}
    np.testing.assert_allclose(model.agent_weights, [expected[rule]], rtol=1e-6)


def test_episodes_of_very_different_length() -> None:
    env = walks({"length": 1}, {"length": 3}, {"length": 15}, {"length": 100})
    model = ppo(env, aggregation="r_weighted").learn(16 * 4 * 8)
    np.testing.assert_allclose(model.agent_returns, [1, 3, 15, 100])
    assert model.agent_weights.argmax() == 3


def test_a_callback_that_stops_mid_rollout() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 20

    model = ppo(aggregation="r_weighted")
    model.learn(256, callback=Stop())
    assert model.num_timesteps == 80
    model.learn(64)
    assert np.isfinite(model.agent_weights).all()


def test_raw_returns_under_vec_normalize() -> None:
    env = VecNormalize(walks({"reward": 10.0}, {"reward": 20.0}, {"reward": 30.0}, {"reward": 40.0}))
    model = ppo(env, aggregation="r_weighted").learn(128)
    np.testing.assert_allclose(model.agent_returns, [50, 100, 150, 200])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_a_minibatch_of_masked_agents_alone_is_left_out(seed: int) -> None:
    broken = {"length": 4, "broken": np.nan, "broken_steps": range(99)}
    model = ppo(walks(broken, broken, broken, {"length": 4}), minibatches="stock", n_steps=32, batch_size=4, seed=seed)
    with pytest.warns(UserWarning, match="agent 0, 1, 2 had"):
        model.learn(4 * 32)
    assert model.logger.name_to_value["agg/masked_agents"] == 3
    assert model.ledger.messages_per_agent[:3].tolist() == [0, 0, 0]
    assert model.ledger.messages_per_agent[3] > 0


def test_returns_are_weighed_as_exactly_as_they_are_kept() -> None:
    model = ppo(walks(*({"length": 1, "reward": 1e8 + more} for more in (0, 1, 3))), aggregation="r_weighted", batch_size=48)
    model.learn(3 * 16)
    np.testing.assert_allclose(model.agent_weights, [1 / 3, 1 / 4 + 1 / 3, 3 / 4 + 1 / 3], rtol=1e-6)


def test_a_rollout_is_short_again_once_nobody_waits_for_episodes() -> None:
    model = ppo(walks(*[{"length": 20}] * 2), n_steps=8, batch_size=16, min_episodes=1).learn(64)
    assert model.rollout_buffer.buffer_size > 8
    model.min_episodes = 0
    model.learn(64)
    assert model.rollout_buffer.buffer_size == 8
