"""SB3's own features keep working, and rollouts last as long as asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_agg import AgentLog, AggMaskablePPO, AggPPO, AggRecurrentPPO
from tests.sb3.worlds import cartpoles, walks

RULES = ["mean", "r_weighted", "l_weighted"]


@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
@pytest.mark.parametrize("rule", RULES)
def test_dict_observations(rule: str, minibatches: str) -> None:
    env = make_vec_env(lambda: SimpleMultiObsEnv(random_start=False, channel_last=False), n_envs=2)
    settings = {"n_steps": 16, "batch_size": 8, "n_epochs": 1, "device": "cpu"}
    model = AggPPO("MultiInputPolicy", env, aggregation=rule, minibatches=minibatches, **settings)
    model.learn(64)
    assert np.isfinite(model.agent_weights).all()


@pytest.mark.parametrize("rule", RULES)
def test_state_dependent_exploration_and_squashing(rule: str) -> None:
    model = AggPPO(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", 4),
        aggregation=rule,
        use_sde=True,
        sde_sample_freq=4,
        policy_kwargs={"squash_output": True},
        n_steps=32,
        device="cpu",
    ).learn(256)
    assert np.isfinite(model.agent_weights).all()


@pytest.mark.parametrize("rule", RULES)
def test_invalid_actions_are_never_taken(rule: str) -> None:
    env = make_vec_env(lambda: InvalidActionEnvDiscrete(dim=8, n_invalid_actions=4), n_envs=4)
    model = AggMaskablePPO("MlpPolicy", env, aggregation=rule, n_steps=32, min_episodes=1, device="cpu").learn(256)
    buffer = model.rollout_buffer  # SB3 has flattened it, masks too
    allowed = buffer.action_masks.reshape(-1, 8)
    taken = buffer.actions.reshape(-1).astype(int)
    assert not allowed.all()
    assert allowed[np.arange(len(taken)), taken].all()


@pytest.mark.parametrize("rule", RULES)
def test_vec_normalize(rule: str) -> None:
    env = VecNormalize(cartpoles(4))
    model = AggPPO("MlpPolicy", env, aggregation=rule, n_steps=64, device="cpu").learn(512)
    assert np.isfinite(model.agent_weights).all()


def test_target_kl_stops_an_update() -> None:
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="l_weighted", n_steps=64, target_kl=1e-9, n_epochs=50, device="cpu")
    model.learn(256)
    assert model._n_updates < 50
    model.learn(256)
    assert np.isfinite(model.agent_weights).all()


def test_mixed_signs_are_counted() -> None:
    settings = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="l_weighted", ent_coef=1e3, **settings).learn(256)
    assert model.logger.name_to_value["agg/mixed_sign_updates"] == 16
    stopped = {**settings, "batch_size": None, "n_epochs": 50, "target_kl": 1e-9}  # in the second epoch, before its step
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="l_weighted", ent_coef=1e3, **stopped).learn(256)
    assert model.logger.name_to_value["agg/mixed_sign_updates"] == 1
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="l_weighted", vf_coef=1e3, **settings).learn(256)
    assert model.logger.name_to_value["agg/mixed_sign_updates"] == 0


def test_callbacks_checkpoints_tensorboard_and_progress_bar(tmp_path: Path) -> None:
    callbacks = CallbackList(
        [
            CheckpointCallback(100, str(tmp_path / "checkpoints")),
            EvalCallback(cartpoles(1), eval_freq=100, n_eval_episodes=2, log_path=str(tmp_path / "eval"), verbose=0),
            AgentLog(),
        ]
    )
    model = AggPPO(
        "MlpPolicy", cartpoles(4), aggregation="r_weighted", n_steps=128, tensorboard_log=str(tmp_path), device="cpu"
    )
    model.learn(1536, callback=callbacks, progress_bar=True)
    assert (tmp_path / "eval" / "evaluations.npz").exists()
    checkpoint = next((tmp_path / "checkpoints").glob("*.zip"))
    assert AggPPO.load(checkpoint, device="cpu").aggregation == "r_weighted"
    events = EventAccumulator(str(tmp_path / "PPO_1")).Reload()
    tags = set(events.Tags()["scalars"])
    expected = {
        f"agg/{name}" for name in ("weight_min", "weight_max", "effective_agents", "masked_agents", "mixed_sign_updates")
    }
    per_agent = {f"agg/{name}/{agent}" for name in ("weight", "return") for agent in range(4)}
    assert expected | per_agent | {"train/loss", "rollout/ep_rew_mean"} <= tags
    weights = [[event.value for event in events.Scalars(f"agg/weight/{agent}")][-1] for agent in range(4)]
    np.testing.assert_allclose(sum(weights), 2.0, rtol=1e-5)


def test_agent_log_refuses_a_model_without_agents() -> None:
    with pytest.raises(TypeError, match="AgentLog needs an algorithm of sb3_agg such as AggPPO, got PPO"):
        PPO("MlpPolicy", cartpoles(2), n_steps=32, device="cpu").learn(64, callback=AgentLog())


def test_logged_numbers_are_those_of_the_weights(tmp_path: Path) -> None:
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation="r_weighted", n_steps=128, seed=0, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(512)
    log, weights = model.logger.name_to_value, model.agent_weights
    assert log["agg/weight_min"] == pytest.approx(weights.min())
    assert log["agg/weight_max"] == pytest.approx(weights.max())
    assert log["agg/effective_agents"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-5)
    assert log["agg/masked_agents"] == log["agg/mixed_sign_updates"] == log["agg/skipped_updates"] == 0


# Rollouts that wait for episodes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "policy"), [(AggPPO, "MlpPolicy"), (AggRecurrentPPO, "MlpLstmPolicy")])
def test_a_rollout_waits_for_episodes(cls: Any, policy: str) -> None:
    """Episodes of 5, 9 and 50 steps: two of the longest take 100 steps, however short n_steps is."""
    env = walks({"length": 5}, {"length": 9}, {"length": 50})
    settings = {"n_steps": 8, "batch_size": None, "n_epochs": 1, "seed": 0, "device": "cpu"}
    model = cls(policy, env, min_episodes=2, aggregation="r_weighted", **settings)
    model.learn(600)
    assert model.rollout_buffer.buffer_size == 100
    assert model.num_timesteps == 600
    assert model.rollout_buffer.rewards.size == 300
    np.testing.assert_allclose(model.agent_returns, [5, 9, 50])


def test_a_rollout_is_at_least_n_steps_long() -> None:
    model = AggPPO("MlpPolicy", walks({"length": 2}, {"length": 2}), n_steps=32, min_episodes=2, device="cpu").learn(64)
    assert model.num_timesteps == 64
    assert model.rollout_buffer.buffer_size == 32


def test_a_stretched_rollout_holds_what_one_collected_at_once_holds() -> None:
    settings = {"batch_size": None, "n_epochs": 1, "seed": 3, "device": "cpu", "advantage_norm": "stock"}
    walk = {"length": 40}
    stretched = AggPPO("MlpPolicy", walks(walk, walk), n_steps=8, min_episodes=1, **settings).learn(80)
    at_once = AggPPO("MlpPolicy", walks(walk, walk), n_steps=40, **settings).learn(80)
    for name in ("observations", "actions", "rewards", "values", "advantages", "returns", "log_probs", "episode_starts"):
        np.testing.assert_array_equal(
            getattr(stretched.rollout_buffer, name).ravel(), getattr(at_once.rollout_buffer, name).ravel(), err_msg=name
        )


def test_waiting_ends_with_the_budget() -> None:
    """An agent that never finishes an episode must not hold the others for ever."""
    model = AggPPO("MlpPolicy", walks({}, {"length": None}), n_steps=8, min_episodes=1, batch_size=None, device="cpu")
    model.learn(100)
    assert model.num_timesteps == 100


def test_masks_of_a_stretched_rollout_stay_open_without_masking() -> None:
    model = AggMaskablePPO("MlpPolicy", cartpoles(2), n_steps=4, min_episodes=1, batch_size=None, n_epochs=1, device="cpu")
    model.learn(60, use_masking=False)
    assert (model.rollout_buffer.action_masks == 1).all()


# Minibatches -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [8, 24, 200])
def test_each_epoch_serves_every_sample_once_in_equal_parts(batch_size: int) -> None:
    model = AggPPO("MlpPolicy", cartpoles(4), n_steps=50, batch_size=batch_size, n_epochs=3, seed=0, device="cpu")
    served: list[tuple[torch.Tensor, torch.Tensor]] = []
    evaluate = type(model.policy).evaluate_actions

    class Spy(type(model.policy)):  # type: ignore[misc]
        def evaluate_actions(self, observations: torch.Tensor, actions: torch.Tensor) -> Any:
            served.append((observations, actions))
            return evaluate(self, observations, actions)

    model.policy.__class__ = Spy
    model.learn(200)
    everything = torch.as_tensor(model.rollout_buffer.observations)  # [A * T, 4]
    owner = {tuple(row.tolist()): index // 50 for index, row in enumerate(everything)}
    per_epoch = -(-50 // (batch_size // 4))
    assert len(served) == 3 * per_epoch
    for epoch in range(3):
        batches = [observations for observations, _ in served[epoch * per_epoch : (epoch + 1) * per_epoch]]
        rows = torch.cat(batches)
        assert torch.equal(rows.sort(0).values, everything.sort(0).values)
        for batch in batches:
            counts = np.bincount([owner[tuple(row.tolist())] for row in batch], minlength=4)
            assert len(set(counts)) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
def test_on_cuda(rule: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = AggPPO("MlpPolicy", cartpoles(4), aggregation=rule, n_steps=64, device="cuda").learn(512)
    assert np.isfinite(model.agent_weights).all()


def test_multi_discrete_and_multi_binary_actions() -> None:
    class Buttons(gym.Env[np.ndarray, np.ndarray]):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)

        def __init__(self, action_space: spaces.Space[Any]) -> None:
            self.action_space, self.clock = action_space, 0

        def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
            super().reset(**kwargs)
            self.clock = 0
            return self.observation_space.sample(), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            self.clock += 1
            return self.observation_space.sample(), float(action.sum()), self.clock == 7, False, {}

    for space in (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)):
        env = make_vec_env(lambda space=space: Buttons(space), n_envs=2)
        model = AggPPO("MlpPolicy", env, aggregation="l_weighted", n_steps=32, device="cpu").learn(128)
        assert np.isfinite(model.agent_weights).all()
