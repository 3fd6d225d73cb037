"""Disturbances on arrays do what those of single environments do."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rl_agg.envs.disturbances import Disturbance
from rl_agg.envs.disturbed_arrays import DisturbedArrays

SPACE = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([3, np.inf], np.float32))
AGENTS = 6


def part(space: spaces.Space[Any] = SPACE, **settings: Any) -> DisturbedArrays:
    made = DisturbedArrays(Disturbance(**{"agents": [4, 1], **settings}), space)
    made.seed([7])
    return made


def observed(made: DisturbedArrays, steps: int, **kwargs: Any) -> np.ndarray:
    """What becomes of zeros ``[T, A, 2]``."""
    rows = np.zeros((steps, AGENTS, 2), np.float32)
    for row in rows:
        made.disturb_observations(row, **kwargs)
    return rows


def test_broken_sensors_are_samples_of_the_space() -> None:
    """Uniform where it has bounds, standard Gaussian where it has none, as Gymnasium's own."""
    rows = observed(part(broken_sensors=True), 4000)
    assert not rows[:, [0, 2, 3, 5]].any()
    bounded, unbounded = rows[:, [1, 4], 0], rows[:, [1, 4], 1]
    assert (bounded.min(), bounded.max()) == pytest.approx((-1, 3), abs=0.01)
    assert bounded.mean() == pytest.approx(1, abs=0.05)
    assert (unbounded.mean(), unbounded.std()) == pytest.approx((0, 1), abs=0.05)
    assert abs(np.corrcoef(rows[:, 1, 0], rows[:, 4, 0])[0, 1]) < 0.05
    numbers = part(spaces.Discrete(5, start=2), broken_sensors=True)
    states = np.zeros(AGENTS, np.int64)
    numbers.disturb_observations(states)
    assert all(2 <= states[agent] < 7 for agent in (1, 4))
    assert states[0] == 0


def test_noise_has_its_size_and_stays_within_the_space() -> None:
    rows = observed(part(sensor_noise=2.0), 4000)
    assert rows[:, [1, 4], 1].std() == pytest.approx(2, rel=0.05)
    assert rows[:, [1, 4], 0].min() == -1
    assert rows[:, [1, 4], 0].max() == 3
    assert not rows[:, [0, 2, 3, 5]].any()
    assert rows.dtype == np.float32


def test_rewards_are_scaled_or_replaced() -> None:
    rewards = np.arange(AGENTS, dtype=np.float32)
    part(reward_scale=10.0).disturb_rewards(rewards)
    assert rewards.tolist() == [0, 10, 2, 3, 40, 5]
    broken, drawn = part(broken_reward=True, reward_scale=3.0), []
    for _ in range(4000):
        rewards = np.arange(AGENTS, dtype=np.float32)
        broken.disturb_rewards(rewards)
        drawn.append(rewards[[1, 4]])
        assert rewards[[0, 2, 3, 5]].tolist() == [0, 2, 3, 5]
    assert np.mean(drawn) == pytest.approx(0, abs=0.15)
    assert np.std(drawn) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("settings", [{"broken_sensors": True}, {"sensor_noise": 0.5}], ids=str)
def test_a_seed_repeats_everything(settings: dict[str, Any]) -> None:
    made = part(**settings)
    first = observed(made, 20)
    made.seed([7])
    assert np.array_equal(observed(made, 20), first)
    made.seed([8])
    assert not np.array_equal(observed(made, 20), first)


def test_some_of_its_agents_alone() -> None:
    among = np.zeros(AGENTS, dtype=np.bool_)
    among[[0, 4]] = True
    for settings in ({"broken_sensors": True}, {"sensor_noise": 0.5}):
        rows = observed(part(**settings), 20, among=among)
        assert rows[:, 4].all()
        assert not rows[:, :4].any()


@pytest.mark.parametrize("name", ["env_kwargs", "attributes", "mass_scale"])
def test_what_changes_the_environment_itself_is_refused(name: str) -> None:
    value: Any = 2.0 if name == "mass_scale" else {"gravity": 2.0}
    with pytest.raises(ValueError, match=f"{name} cannot differ among environments that step together in one program"):
        part(**{name: value})


def test_noise_needs_numbers() -> None:
    with pytest.raises(ValueError, match=re.escape("sensor_noise needs observations in a Box of floats, got Discrete(4)")):
        part(spaces.Discrete(4), sensor_noise=1.0)


def test_the_task_of_many_goals() -> None:
    """A force of 1 along an axis gives speeds 0.2, 0.38, 0.542, and so places 0.02, 0.058, 0.1122."""
    env = gym.make("rl_agg.envs:rl_agg/GoalReacher-v0", goal=2)
    observation, _ = env.reset(seed=0)
    start = observation[:2].astype(float)
    assert np.abs(start).max() <= 0.1
    np.testing.assert_allclose(observation[4:], [0, 1], atol=1e-7)
    for place in (0.02, 0.058, 0.1122):
        observation, reward, terminated, truncated, _ = env.step(np.array([1.0, 0.0], np.float32))
        np.testing.assert_allclose(observation[:2], [start[0] + place, start[1]], atol=1e-6)
        assert reward == pytest.approx(-np.linalg.norm(observation[:2] - [0, 1]), abs=1e-6)
        assert not terminated
        assert not truncated
    for _ in range(47):
        *_, truncated, _ = env.step(env.action_space.sample())
    assert truncated
    for goal in (8, 1.5):
        with pytest.raises(ValueError, match=f"goal must be an integer between 0 and 7, got {goal}"):
            gym.make("rl_agg.envs:rl_agg/GoalReacher-v0", goal=goal)
