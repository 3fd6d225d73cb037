"""The maze that misleads: its walls and distances, and that returns alone do not lead out of its pocket."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl_agg.envs.maze import MAZE, SPEED
from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.population import open_environments
from rl_agg.seeding import stream

ID = "rl_agg/DeceptiveMaze-v0"
DOWN, UP, RIGHT, LEFT = np.eye(2)[0], -np.eye(2)[0], np.eye(2)[1], -np.eye(2)[1]


def walk(*moves: tuple[np.ndarray, int]) -> list[Any]:
    env = gym.make(ID)
    env.reset(seed=0)
    return [env.step(direction.astype(np.float32)) for direction, steps in moves for _ in range(steps)]


def place(observation: np.ndarray) -> list[float]:
    return ((observation.astype(np.float64) + 1) * len(MAZE) / 2).round(4).tolist()


def test_gymnasium_checks_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, disable_env_checker=True).unwrapped)


def test_made_without_an_import_of_our_own() -> None:
    script = f"import gymnasium; print(gymnasium.make('rl_agg.envs:{ID}').reset(seed=0)[0].tolist())"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[0.5714285969734192, 0.0]"


def test_the_pocket_ends_near_the_goal() -> None:
    steps = walk((UP, 59))
    assert place(steps[-1][0]) == [3.0, 3.5]
    assert [step[1] for step in steps[:6]] == [-3.5, -3.0, -2.5, -2.0, -1.5, -1.5]
    assert not any(step[2] or step[3] for step in steps)


def test_the_way_out_begins_by_going_away() -> None:
    steps = walk((DOWN, 2), (LEFT, 6), (UP, 10), (RIGHT, 5))
    distances = [-step[1] for step in steps]
    assert distances[:3] == pytest.approx([4.5, 5.0, np.hypot(5, 0.5)])
    assert distances[7] == pytest.approx(np.hypot(5, 3))
    assert [step[2] for step in steps] == [False] * 22 + [True]
    assert place(steps[-1][0]) == [1.5, 3.0]


def test_no_wall_is_entered() -> None:
    env = gym.make(ID)
    generator, cells = np.random.default_rng(0), set()
    for episode in range(60):
        env.reset(seed=episode)
        drift = generator.uniform(-1, 1, 2)
        for _ in range(60):
            observation, _, ended, _, _ = env.step(np.clip(drift + generator.normal(size=2), -1, 1).astype(np.float32))
            row, column = (min(int(number), 6) for number in place(observation))
            cells.add(MAZE[row][column])
            if ended:
                break
    assert "W" not in cells
    assert SPEED < 1


def test_moves_are_clipped_and_taken_one_axis_at_a_time() -> None:
    steps = walk((np.array([-1.0, 5.0]), 3))  # RIGHT beyond 1 counts as 1
    assert [place(step[0]) for step in steps] == [[5.0, 4.0], [4.5, 4.5], [4.0, 4.5]]


def reaches_the_goal(seed: int, updates: int, **settings: Any) -> bool:
    shared = EvolutionSettings(population=20, noise_stdev=0.3, lr=0.05, l2_coeff=0.0, fitness="ranks", **settings)
    evaluator = PopulationEvaluator(open_environments(ID, {}), hidden=(8,))
    agents = EvolutionAgents(evaluator, shared)
    strategy = EvolutionStrategy(evaluator.network.initial(stream("start", seed)), run=seed, settings=shared)
    for _ in range(updates):
        report = agents.run(strategy.broadcast(), np.arange(21))
        strategy.receive(report)
        if report.lengths[-1] < 60:
            return True
    return False


@pytest.mark.slow
def test_novelty_leads_out_of_the_pocket_and_returns_do_not() -> None:
    assert [reaches_the_goal(seed, 300, novelty="ns") for seed in (0, 1, 3)] == [True] * 3
    assert [reaches_the_goal(seed, 300) for seed in (0, 1, 3)] == [False] * 3
