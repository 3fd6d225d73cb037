"""Buffers whose minibatches hold more than a named tuple of tensors."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggDQN, AggPPO
from sb3_agg.off_policy.minibatches import ReplayMinibatches
from sb3_agg.rollouts.minibatches import Minibatches

AGENTS = 4


class More(NamedTuple):
    observations: Any
    actions: Any
    old_values: Any
    old_log_prob: Any
    advantages: Any
    returns: Any
    indices: Any
    hint: Any = None


class Prioritized(NamedTuple):
    observations: Any
    actions: Any
    next_observations: Any
    dones: Any
    rewards: Any
    discounts: Any
    indices: Any
    weights: Any


Data = dataclasses.make_dataclass("Data", More._fields, frozen=True)
ReplayData = dataclasses.make_dataclass("ReplayData", Prioritized._fields)


class WithIndices(RolloutBuffer):
    kind: Any = More

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        return self.kind(*super()._get_samples(batch_inds, env), batch_inds, None)


class AsData(WithIndices):
    kind = Data


class Priorities(ReplayBuffer):
    kind: Any = Prioritized

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        fields = tuple(super()._get_samples(batch_inds, env))[:5]
        return self.kind(*fields, None, batch_inds, torch.ones(len(batch_inds)))


class PrioritiesAsData(Priorities):
    kind = ReplayData


@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
@pytest.mark.parametrize("buffer", [WithIndices, AsData])
def test_a_rollout_buffer_with_fields_of_its_own_learns(buffer: type[RolloutBuffer], minibatches: str) -> None:
    """As with SB3's buffer, to the bit."""
    found = []
    for kind in (buffer, RolloutBuffer):
        model = AggPPO(
            "MlpPolicy",
            make_vec_env("CartPole-v1", AGENTS, seed=0),
            rollout_buffer_class=kind,
            minibatches=minibatches,
            n_steps=16,
            batch_size=16,
            n_epochs=2,
            seed=0,
            device="cpu",
        ).learn(64)
        found.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert torch.equal(*found)


@pytest.mark.parametrize("buffer", [WithIndices, AsData])
def test_fields_of_a_rollout_buffer_are_cut_alike(buffer: type[RolloutBuffer]) -> None:
    env = make_vec_env("CartPole-v1", AGENTS)
    one = buffer(6, env.observation_space, env.action_space, device="cpu", n_envs=AGENTS)
    one.returns[:] = np.arange(6 * AGENTS).reshape(6, AGENTS)
    one.full = True
    served = Minibatches(one, np.ones(AGENTS, dtype=np.bool_), stratified=True)
    with served.served():
        for samples in one.get(2 * AGENTS):
            assert isinstance(samples.indices, np.ndarray)
            steps, agents = samples.indices % 6, samples.indices // 6
            assert samples.returns.tolist() == (steps * AGENTS + agents).tolist()
            assert samples.hint is None


@pytest.mark.parametrize("buffer", [Priorities, PrioritiesAsData])
def test_a_replay_buffer_with_fields_of_its_own_learns(buffer: type[ReplayBuffer]) -> None:
    env = make_vec_env("CartPole-v1", AGENTS, seed=0)
    settings: dict[str, Any] = {"learning_starts": 8, "batch_size": 16, "buffer_size": 400, "train_freq": 1}
    model = AggDQN("MlpPolicy", env, replay_buffer_class=buffer, minibatches="stock", device="cpu", **settings)
    assert model.learn(40).agent_weights is not None


@pytest.mark.parametrize("buffer", [Priorities, PrioritiesAsData])
@pytest.mark.parametrize("faulty", [[1], [0, 1, 2, 3]])
def test_samples_in_place_of_faulty_ones_keep_their_fields_together(buffer: type[ReplayBuffer], faulty: list[int]) -> None:
    env = make_vec_env("CartPole-v1", AGENTS)
    one = buffer(8 * AGENTS, env.observation_space, env.action_space, device="cpu", n_envs=AGENTS)
    one.rewards[:] = np.arange(8)[:, None]
    one.rewards[:, faulty] = np.nan
    one.pos, one.full = 0, True
    samples = ReplayMinibatches(one, stratified=False).sample(32)
    assert isinstance(samples.indices, np.ndarray)
    assert samples.rewards.isfinite().all()
    if len(faulty) < AGENTS:
        assert samples.rewards[:, 0].tolist() == samples.indices.tolist()
