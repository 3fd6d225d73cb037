"""What existing scripts do around the class that changes: copies, checkpoints, other environments."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_agg import AggSAC
from tests.sb3.flattened import parameters
from tests.sb3.replays import PAIRS, marked, ours, settings

SCHEMES: dict[str, dict[str, Any]] = {
    "r_weighted": {"aggregation": "r_weighted"},
    "lag": {"aggregation": "median", "communication": "lag"},
}


COPIES = {"copy": copy.deepcopy, "pickle": lambda model: cloudpickle.loads(cloudpickle.dumps(model))}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_a_trained_model_trains_as_the_model(copied: str, scheme: str) -> None:
    model = ours("sac", **SCHEMES[scheme]).learn(105)
    twin = COPIES[copied](model)
    assert twin.ledger.messages == model.ledger.messages > 0
    found = []
    for one in (model, twin):
        one.set_random_seed(5)
        one.learn(50, reset_num_timesteps=False)
        found.append(parameters(one))
    assert torch.equal(*found)
    assert twin.ledger.messages == model.ledger.messages


@pytest.mark.parametrize("name", ["sac", *[pytest.param(name, marks=pytest.mark.slow) for name in PAIRS if name != "sac"]])
def test_a_checkpoint_of_a_callback_resumes(name: str, tmp_path: Path) -> None:
    """The model, the replay buffer and the agents' returns, written while the model learns."""
    checkpoint = CheckpointCallback(15, str(tmp_path), save_replay_buffer=True)
    best = EvalCallback(marked(name, 1), eval_freq=15, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0)
    model = ours(name, aggregation="r_weighted", communication="lag")
    model.learn(75, callback=CallbackList([checkpoint, best]))
    again = PAIRS[name][1].load(tmp_path / "rl_model_75_steps", env=marked(name), device="cpu")
    again.load_replay_buffer(tmp_path / "rl_model_replay_buffer_75_steps")
    np.testing.assert_array_equal(again.recent_returns, model.recent_returns)
    again.learn(50, reset_num_timesteps=False)
    assert again.num_timesteps == 125
    assert again._n_updates > model._n_updates
    assert PAIRS[name][1].load(tmp_path / "best_model", device="cpu").aggregation == "r_weighted"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_file_is_trained_with_another_number_of_environments(scheme: str, tmp_path: Path) -> None:
    ours("sac", **SCHEMES[scheme]).learn(105).save(tmp_path / "model")
    for number in (4, 8):
        model = AggSAC.load(tmp_path / "model", env=marked("sac", number), device="cpu")
        assert len(model.agent_returns) == number
        model.learn(100, reset_num_timesteps=False)
        assert model.exchanges["actor.optimizer"].num_agents == number
        assert len(model.agent_weights) == number


def goals(max_steps: tuple[int, ...]) -> DummyVecEnv:
    """Environments with goals that are out of reach, whose episodes end after so many steps."""
    build = partial(BitFlippingEnv, n_bits=12, continuous=True)
    return DummyVecEnv([lambda steps=steps: Monitor(build(max_steps=steps)) for steps in max_steps])


@pytest.mark.parametrize("aggregation", ["mean", "l_weighted", "median"])
def test_an_agent_without_a_finished_episode_is_not_called_masked(aggregation: str) -> None:
    """HER cannot draw its samples yet; there is nothing wrong with them."""
    own = {"replay_buffer_class": HerReplayBuffer, "learning_starts": 40, "batch_size": 20, "aggregation": aggregation}
    model = AggSAC("MultiInputPolicy", goals((5, 5, 5, 1000)), **settings("sac", **own))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(100)
    assert model._minibatches.batch.counts[3] == 0  # type: ignore[union-attr]
    assert model.logger.name_to_value["agg/masked_agents"] == 0
    if aggregation != "median":
        assert model.agent_weights[3] == 0


def test_a_budget_that_ends_before_learning_starts_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ours("sac", aggregation="r_weighted", learning_starts=1000).learn(40)
    assert model._n_updates == model.ledger.messages == 0


def test_as_many_steps_as_were_taken() -> None:
    """``gradient_steps=-1`` counts transitions, of all environments."""
    model = ours("td3", aggregation="median", train_freq=2, gradient_steps=-1, learning_starts=20).learn(60)
    assert model._n_updates == 40


def test_episodes_are_counted_in_one_environment() -> None:
    with pytest.warns(UserWarning, match="one environment, so one agent"):
        model = ours("td3", num_agents=1, train_freq=(1, "episode"), gradient_steps=3).learn(60)
    assert model._n_updates == 12


def test_how_samples_are_drawn_can_be_set_again_and_is_checked() -> None:
    model = ours("sac", minibatches="stratified").learn(60)
    model.minibatches = "stock"
    model.learn(60)
    assert not model._minibatches.stratified
    model.minibatches = "stok"
    with pytest.raises(ValueError, match="unknown minibatches 'stok'"):
        model.learn(60)


def test_the_window_of_returns_can_be_set_again_and_is_checked() -> None:
    model = ours("sac", return_window=3).learn(60)
    known = model.recent_returns[:, 0].copy()
    model.return_window = 5
    model.learn(1, reset_num_timesteps=False)
    assert model.recent_returns.shape[1] == 5
    np.testing.assert_array_equal(model.recent_returns[:, 0], known)
    model.return_window = 0
    with pytest.raises(ValueError, match="return_window must be an integer >= 1, got 0"):
        model.learn(60)


def test_logged_weights_are_of_agents_that_have_samples() -> None:
    own = {"replay_buffer_class": HerReplayBuffer, "learning_starts": 40, "batch_size": 20, "aggregation": "mean"}
    model = AggSAC("MultiInputPolicy", goals((5, 5, 5, 1000)), **settings("sac", **own)).learn(100)
    assert model.agent_weights[3] == 0
    assert model.logger.name_to_value["agg/weight_min"] > 0
