"""Playing a team's environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.interface import TeamEnv, TeamStep, TeamView
from rllib_agg.envs.team.registry import make_team_env

Policy = Callable[[TeamView], NDArray[np.int64]]

COPIES = 3

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # halves the time of compiling SMAX


@cache
def battles(task: str, credit: str = "contribution") -> Any:
    """Copies of a map of SMAX, compiled once for all tests."""
    return make_team_env(f"smax/{task}", COPIES, credit=credit)


def random_policy(seed: int = 0) -> Policy:
    """Any legal action."""
    draws = np.random.default_rng(seed)
    return lambda view: np.argmax(draws.random(view.masks.shape) * view.masks, axis=2)


def begin(env: TeamEnv, first_seed: int = 0) -> TeamView:
    """Reset all copies, from seeds that follow each other."""
    return env.reset(np.ones(env.num_envs, dtype=np.bool_), first_seed + np.arange(env.num_envs))


def play(
    env: TeamEnv, policy: Policy, steps: int, *, first_seed: int = 0
) -> Iterator[tuple[TeamView, NDArray[np.int64], TeamStep]]:
    """Step, and begin anew where an episode is over.

    :return: What was seen, done and got.
    """
    view = begin(env, first_seed)
    seeds = first_seed + 1000 + np.arange(env.num_envs)
    for _ in range(steps):
        actions = policy(view)
        step = env.step(actions)
        yield view, actions, step
        over = step.terminated | step.truncated
        view = env.reset(over, seeds) if over.any() else step.view
        seeds = seeds + 1000


def episode(env: TeamEnv, policy: Policy, *, first_seed: int = 0) -> list[TeamStep]:
    """All steps until every copy's episode is over."""
    view = begin(env, first_seed)
    over = np.zeros(env.num_envs, dtype=np.bool_)
    steps = []
    while not over.all():
        steps.append(env.step(policy(view)))
        view = steps[-1].view
        over |= steps[-1].terminated | steps[-1].truncated
    return steps
