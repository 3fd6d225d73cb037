"""The matrix games pay what their papers say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rllib_agg.envs.team.registry import make_team_env
from tests.rllib.teams import begin

TABLES = {
    "climbing": {(0, 0): 11, (1, 1): 7, (1, 2): 6, (2, 2): 5, (0, 1): -30, (1, 0): -30, (0, 2): 0, (2, 0): 0, (2, 1): 0},
    "nonmonotonic": {
        (0, 0): 8,
        **dict.fromkeys([(0, 1), (0, 2), (1, 0), (2, 0)], -12),
        **dict.fromkeys([(1, 1), (1, 2), (2, 1), (2, 2)], 0),
    },
    "penalty": {(0, 0): 10, (1, 1): 2, (2, 2): 10, (0, 2): -100, (2, 0): -100, (0, 1): 0, (1, 0): 0, (1, 2): 0, (2, 1): 0},
}


@pytest.mark.parametrize("game", TABLES)
def test_one_step_games(game: str) -> None:
    joint = np.array(list(TABLES[game]))
    env = make_team_env(f"matrix/{game}", len(joint))
    begin(env)
    step = env.step(joint)
    assert step.rewards.tolist() == list(TABLES[game].values())
    assert step.terminated.all()
    assert not step.truncated.any()


def test_the_penalty_is_a_setting() -> None:
    env = make_team_env("matrix/penalty", 1, settings={"penalty": -3})
    begin(env)
    assert env.step(np.array([[0, 2]])).rewards == [-3]


def test_the_two_step_game() -> None:
    """7 whatever they do after A; after B 0, 1, 1 or 8."""
    plans = np.array(list(itertools.product(range(2), repeat=4)))  # first actions of both, then second ones
    env = make_team_env("matrix/two_step", len(plans))
    view = begin(env)
    assert (view.states == [1, 0, 0]).all()
    first = env.step(plans[:, :2])
    assert not first.rewards.any()
    assert not first.terminated.any()
    assert (first.view.states.argmax(axis=1) == 1 + plans[:, 0]).all()
    assert (first.view.observations == first.view.states[:, None]).all()
    second = env.step(plans[:, 2:])
    after_b = np.array([0, 1, 1, 8])[plans[:, 2:].sum(axis=1) + (plans[:, 2:].sum(axis=1) == 2)]
    assert (second.rewards == np.where(plans[:, 0] == 0, 7, after_b)).all()
    assert second.terminated.all()


def test_there_is_no_credit() -> None:
    with pytest.raises(ValueError, match="matrix/two_step has no credit 'env'; choose from team"):
        make_team_env("matrix/two_step", 1, credit="env")
