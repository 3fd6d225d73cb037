"""Whose a sample is: the column of the replay buffer, whatever the buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_agg.off_policy.minibatches import ReplayMinibatches

AGENTS, STEPS, LENGTH = 3, 60, 10
BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
GOALS = spaces.Dict({"observation": BOX, "achieved_goal": BOX, "desired_goal": BOX})
BUFFERS = ["plain", "small_memory", "dict", "n_steps", "her"]


class Rewards:
    """The part of an environment that HER asks for rewards."""

    def env_method(self, name: str, achieved: np.ndarray, desired: np.ndarray, infos: Any, indices: Any) -> list[np.ndarray]:
        return [np.zeros(len(achieved))]


def buffer_of(kind: str, steps: int = STEPS, size: int = STEPS) -> Any:
    """Every transition observes its agent and its step; agent a's reward is 100 times its number."""
    action = spaces.Box(-1.0, 1.0, (1,), np.float32)
    space: Any = GOALS if kind == "her" else spaces.Dict({"a": BOX, "b": BOX}) if kind == "dict" else BOX
    own: dict[str, Any] = {"n_envs": AGENTS, "device": "cpu"}
    if kind == "her":
        buffer: Any = HerReplayBuffer(size * AGENTS, space, action, env=Rewards(), **own)
    elif kind == "dict":
        buffer = DictReplayBuffer(size * AGENTS, space, action, **own)
    elif kind == "small_memory":
        settings = {"optimize_memory_usage": True, "handle_timeout_termination": False}
        buffer = ReplayBuffer(size * AGENTS, space, action, **own, **settings)
    elif kind == "n_steps":
        from stable_baselines3.common.buffers import NStepReplayBuffer  # from SB3 2.7

        buffer = NStepReplayBuffer(size * AGENTS, space, action, n_steps=3, gamma=1.0, **own)
    else:
        buffer = ReplayBuffer(size * AGENTS, space, action, **own)
    numbers = np.arange(AGENTS, dtype=np.float32)
    for step in range(steps):
        now, after = (np.stack([numbers, np.full(AGENTS, time, np.float32)], 1) for time in (step, step + 1))
        if isinstance(space, spaces.Dict):
            now, after = (dict.fromkeys(space, item) for item in (now, after))
        # The last agent's first episode ends later, so that HER has fewer samples of it
        done = np.array([(step + 1) % LENGTH == 0] * (AGENTS - 1) + [(step + 1) % (3 * LENGTH) == 0])
        buffer.add(now, after, numbers[:, None], 100 * numbers, done, [{}] * AGENTS)
    return buffer


def marks(samples: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whose a sample is by what it observes, and the steps of its observation and the next."""
    items = [samples.observations, samples.next_observations]
    now, after = (item["observation" if "observation" in item else "a"] if isinstance(item, dict) else item for item in items)
    np.testing.assert_array_equal(now[:, 0], after[:, 0])
    np.testing.assert_array_equal(now[:, 0], samples.actions[:, 0])
    return now[:, 0].numpy().astype(int), now[:, 1].numpy(), after[:, 1].numpy()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("kind", BUFFERS)
def test_a_samples_agent_is_its_column(kind: str, stratified: bool, full: bool) -> None:
    if kind == "n_steps":
        pytest.importorskip("stable_baselines3.common.buffers", reason="no n-step buffer")
    buffer = buffer_of(kind, steps=STEPS + 17 if full else STEPS - 5)
    minibatches = ReplayMinibatches(buffer, stratified=stratified)
    np.random.seed(0)
    drawn = []
    with minibatches.served():
        for _ in range(20):
            samples = buffer.sample(30)
            agents, now, after = marks(samples)
            np.testing.assert_array_equal(minibatches.batch.agents, agents)
            np.testing.assert_array_equal(minibatches.batch.counts, np.bincount(agents, minlength=AGENTS))
            if kind != "her":
                num_steps = np.round(samples.rewards[:, 0].numpy() / np.maximum(100 * agents, 1))
                assert (after - now == np.where(agents == 0, after - now, num_steps)).all()
                assert ((after - now == 1) | (kind == "n_steps")).all()
            if stratified:
                assert (np.bincount(agents, minlength=AGENTS) == 10).all()
                assert minibatches.batch.equal_parts
            drawn.append(agents)
    assert np.ptp(np.bincount(np.concatenate(drawn))) < 150  # of 200 each, also by chance
    assert "sample" not in vars(buffer)
    assert type(buffer.actions) is np.ndarray


def test_stock_order_draws_what_the_buffer_would() -> None:
    for kind in BUFFERS:
        buffer = buffer_of(kind)
        minibatches = ReplayMinibatches(buffer, stratified=False)
        np.random.seed(1)
        expected = buffer.sample(16)
        np.random.seed(1)
        with minibatches.served():
            found = buffer.sample(16)
        assert torch.equal(found.rewards, expected.rewards)
        assert torch.equal(found.actions, expected.actions)


def test_an_agent_without_a_finished_episode_is_not_drawn_with_her() -> None:
    buffer = buffer_of("her", steps=25)  # the last agent's first episode ends after 30
    minibatches = ReplayMinibatches(buffer, stratified=True)
    with minibatches.served():
        buffer.sample(30)
    assert minibatches.batch.counts.tolist() == [15, 15, 0]
    assert not minibatches.batch.equal_parts


def test_virtual_samples_of_her_are_of_all_agents() -> None:
    buffer = buffer_of("her")
    minibatches = ReplayMinibatches(buffer, stratified=True)
    drawn: list[np.ndarray] = []
    get = buffer._get_virtual_samples

    def virtual(rows: np.ndarray, columns: np.ndarray, env: Any = None) -> Any:
        drawn.append(columns)
        return get(rows, columns, env)

    buffer._get_virtual_samples = virtual
    with minibatches.served():
        for _ in range(10):
            buffer.sample(30)
    counts = np.bincount(np.concatenate(drawn), minlength=AGENTS)
    assert counts.sum() == 240  # four fifths
    assert np.ptp(counts) <= 10


class Own(ReplayBuffer):
    def sample(self, batch_size: int, env: Any = None) -> Any:
        return self._get_samples(np.arange(batch_size) % self.size(), env)


class Hidden(ReplayBuffer):
    def _get_samples(self, rows: np.ndarray, env: Any = None) -> Any:
        actions, self.actions = self.actions, np.zeros_like(self.rewards)[..., None]
        samples = super()._get_samples(rows, env)
        self.actions = actions
        return samples


def test_a_buffer_that_draws_by_itself_needs_stock_order() -> None:
    own = Own(30, BOX, BOX, n_envs=AGENTS, device="cpu")
    with pytest.raises(ValueError, match=r"in place of those of Own\.sample\(\); choose minibatches='stock'"):
        ReplayMinibatches(own, stratified=True)
    own.add(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2)), np.arange(3.0), np.zeros(3), [{}] * 3)
    minibatches = ReplayMinibatches(own, stratified=False)
    with minibatches.served():
        samples = own.sample(40)
    np.testing.assert_array_equal(samples.rewards[:, 0], minibatches.batch.agents)


def test_a_buffer_whose_columns_cannot_be_seen_is_refused() -> None:
    hidden = Hidden(30, BOX, BOX, n_envs=AGENTS, device="cpu")
    hidden.add(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2)), np.arange(3.0), np.zeros(3), [{}] * 3)
    minibatches = ReplayMinibatches(hidden, stratified=False)
    with minibatches.served(), pytest.raises(ValueError, match=r"Hidden must read actions\[row, column\]"):
        hidden.sample(8)
