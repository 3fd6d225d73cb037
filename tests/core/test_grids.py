"""The grid worlds: Gymnasium's requirements, and the dynamics in Gunn (2023)."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl_agg.envs.grids import ENTRY_POINTS

LEFT, RIGHT, UP, DOWN, STAY = range(5)


@pytest.mark.parametrize("id_", ENTRY_POINTS)
def test_gymnasium_checks_it(id_: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(id_, disable_env_checker=True).unwrapped)


def test_made_without_an_import_of_our_own() -> None:
    script = f"import gymnasium\nfor id_ in {list(ENTRY_POINTS)}: print(gymnasium.make('rl_agg.envs:' + id_).reset(seed=0)[0])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0"] * len(ENTRY_POINTS)


@pytest.mark.parametrize("id_", ENTRY_POINTS)
def test_steps_follow_the_model(id_: str) -> None:
    env = gym.make(id_).unwrapped
    counts: dict[tuple[int, int], dict[tuple[int, float, bool], int]] = {}
    cell, _ = env.reset(seed=0)
    generator = np.random.default_rng(1)
    for _ in range(30_000):
        action = int(generator.integers(5))
        landed, reward, terminated, _, _ = env.step(action)
        seen = counts.setdefault((cell, action), {})
        seen[landed, reward, terminated] = seen.get((landed, reward, terminated), 0) + 1
        cell = env.reset()[0] if terminated else landed
    for (cell, action), seen in counts.items():
        model = {outcome[1:]: outcome[0] for outcome in env.P[cell][action]}
        assert set(seen) <= set(model)
        total = sum(seen.values())
        for outcome, chance in model.items():
            spread = np.sqrt(chance * (1 - chance) / total)
            assert seen.get(outcome, 0) / total == pytest.approx(chance, abs=4.5 * spread + 1 / total)


def test_chances_sum_to_one_and_ends_are_absorbing() -> None:
    for id_ in ENTRY_POINTS:
        env = gym.make(id_).unwrapped
        for cell, actions in env.P.items():
            for outcomes in actions.values():
                assert sum(outcome[0] for outcome in outcomes) == pytest.approx(1.0)
                if env.kind(cell) in "HG":
                    assert outcomes == [(1.0, cell, 0.0, True)]


def test_simple_grid_takes_eight_steps() -> None:
    env = gym.make("rl_agg/SimpleGrid-v0")
    env.reset(seed=0)
    walked = [env.step(action) for action in [RIGHT] * 4 + [DOWN] * 4]
    assert [step[1] for step in walked] == [-1.0] * 7 + [0.0]
    assert [step[2] for step in walked] == [False] * 7 + [True]


def test_walls_and_staying() -> None:
    env = gym.make("rl_agg/SimpleGrid-v0")
    env.reset(seed=0)
    assert [env.step(action)[0] for action in (LEFT, UP, STAY, DOWN)] == [0, 0, 0, 5]


def test_wind_blows_up_and_left_independently() -> None:
    env = gym.make("rl_agg/WindyGrid-v0").unwrapped
    chances = {landed: chance for chance, landed, _, _ in env.P[12][STAY]}
    assert chances == pytest.approx({12: 0.49, 7: 0.21, 11: 0.21, 6: 0.09})
    with pytest.raises(ValueError, match=r"wind must be in \[0, 1\], got 2"):
        gym.make("rl_agg/WindyGrid-v0", wind=2)


def test_lake_slips_to_the_sides() -> None:
    env = gym.make("rl_agg/FrozenLake5x5-v0").unwrapped
    assert {landed: chance for chance, landed, _, _ in env.P[11][RIGHT]} == pytest.approx({12: 1 / 3, 6: 1 / 3, 16: 1 / 3})
    assert len(env.P[11][STAY]) == 1
    firm = gym.make("rl_agg/FrozenLake5x5-v0", is_slippery=False).unwrapped
    assert firm.P[23][RIGHT] == [(1.0, 24, 1.0, True)]


def test_time_limit() -> None:
    env = gym.make("rl_agg/SimpleGrid-v0")
    env.reset(seed=0)
    truncated = [env.step(STAY)[3] for _ in range(100)]
    assert truncated == [False] * 99 + [True]


def test_renderings() -> None:
    text = gym.make("rl_agg/FrozenLake5x5-v0", render_mode="ansi")
    text.reset(seed=0)
    assert text.render().splitlines()[0] == "[S] F  F  F  F "
    picture = gym.make("rl_agg/SimpleGrid-v0", render_mode="rgb_array")
    picture.reset(seed=0)
    before = picture.render()
    picture.step(RIGHT)
    after = picture.render()
    assert before.shape == (160, 160, 3)
    assert before.dtype == np.uint8
    assert (before[16, 16] == after[16, 48]).all()
    assert (before[16, 16] != after[16, 16]).any()
