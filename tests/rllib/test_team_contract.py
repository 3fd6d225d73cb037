"""Every backend keeps the interface: shapes, seeds, resets of some copies, legal actions, terminations and truncations."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from rllib_agg.envs.team.interface import TeamEnv
from rllib_agg.envs.team.registry import make_team_env
from tests.rllib.teams import COPIES, battles, begin, episode, play, random_policy

LBF = "lbf/Foraging-8x8-2p-2f-coop-v3"
TASKS = {
    "matrix/two_step": None,
    "matrix/climbing": None,
    LBF: "lbforaging",
    "lbf/Foraging-2s-8x8-3p-2f-v3": "lbforaging",
    "mpe/simple_spread_v3": "mpe2",
    "mpe/simple_speaker_listener_v4": "mpe2",
    "vmas/balance": "vmas",
    "smax/3m": "jaxmarl",
}


def parameters() -> list[Any]:
    return [
        pytest.param(
            task,
            id=task,
            marks=pytest.mark.skipif(
                package is not None and find_spec(package) is None,
                reason=f"{package} is not installed: pip install 'rl-agg[marl]'",
            ),
        )
        for task, package in TASKS.items()
    ]


@cache
def made(task: str) -> TeamEnv:
    """Made once: SMAX takes seconds to compile."""
    env: TeamEnv = battles("3m") if task == "smax/3m" else make_team_env(task, COPIES)
    return env


each_task = pytest.mark.parametrize("task", parameters())


@each_task
def test_shapes_and_types(task: str) -> None:
    env = made(task)
    spec = env.spec
    n, a = spec.num_agents, spec.num_actions
    assert len(spec.agent_types) == n
    for view, _, step in play(env, random_policy(), 30):
        for seen in (view, step.view):
            assert seen.observations.shape == (3, n, spec.observation_size)
            assert seen.states.shape == (3, spec.state_size)
            assert seen.masks.shape == (3, n, a)
            assert (seen.observations.dtype, seen.states.dtype, seen.masks.dtype) == (np.float32, np.float32, np.bool_)
            assert seen.masks.any(axis=2).all()
        assert step.rewards.dtype == np.float32
        assert (step.agent_rewards is None) == (task != "smax/3m")  # made with a credit, for other tests
        assert not (step.terminated & step.truncated).any()
        assert (step.won is not None) == spec.has_wins


@each_task
def test_an_episode_ends_by_its_time_limit(task: str) -> None:
    env = made(task)
    steps = episode(env, random_policy())
    assert len(steps) <= env.spec.max_episode_steps
    running = np.ones(3, dtype=np.bool_)
    for number, step in enumerate(steps, start=1):
        over = (step.terminated | step.truncated) & running
        if number < env.spec.max_episode_steps:
            assert not step.truncated[running].any()
        elif running.any():
            assert over[running].all()
        running &= ~over


@each_task
def test_equal_seeds_give_equal_episodes(task: str) -> None:
    env = made(task)

    def played() -> list[np.ndarray[Any, Any]]:
        seen = [begin(env, 5).observations]
        for _, _, step in play(env, random_policy(1), 15, first_seed=5):
            seen += [step.view.observations, step.view.states, step.rewards]
        return seen

    for once, again in zip(played(), played(), strict=True):
        np.testing.assert_array_equal(once, again)


@each_task
def test_copies_with_one_seed_are_alike(task: str) -> None:
    env = made(task)
    view = env.reset(np.ones(3, dtype=np.bool_), np.array([4, 9, 4]))
    np.testing.assert_array_equal(view.observations[0], view.observations[2])
    if env.spec.observation_size > 3:  # a matrix game draws nothing
        assert (view.observations[0] != view.observations[1]).any()


@pytest.mark.parametrize("task", [each for each in parameters() if each.id != "matrix/climbing"])  # which has one step
def test_a_reset_of_some_copies_leaves_the_others(task: str) -> None:
    env = made(task)
    first = min(3, env.spec.max_episode_steps - 1)

    def others(resets: bool) -> list[np.ndarray[Any, Any]]:
        draws = random_policy(3)
        view, seen = begin(env), []
        for number in range(env.spec.max_episode_steps):
            if resets and number % 5 == first:
                before = view
                view = env.reset(np.array([False, True, False]), np.array([1, 2 + number, 3]))
                np.testing.assert_array_equal(view.observations[[0, 2]], before.observations[[0, 2]])
                np.testing.assert_array_equal(view.states[[0, 2]], before.states[[0, 2]])
                np.testing.assert_array_equal(view.masks[[0, 2]], before.masks[[0, 2]])
            actions = draws(view)
            actions[1] = view.masks[1].argmax(axis=1)
            step = env.step(actions)
            view = step.view
            seen.append(np.concatenate([step.rewards[[0, 2]], view.states[[0, 2]].ravel()]))
            if (step.terminated | step.truncated)[[0, 2]].any():
                break
        return seen

    untouched = others(resets=False)
    assert len(untouched) > first
    np.testing.assert_array_equal(untouched, others(resets=True))


@each_task
def test_actions_that_are_not_legal_are_refused(task: str) -> None:
    env = made(task)
    view = begin(env)
    actions = random_policy()(view)
    for bad in (-1, env.spec.num_actions):
        actions[2, 1] = bad
        with pytest.raises(ValueError, match=f"action {bad} of agent 1 in copy 2 is not legal; choose from"):
            env.step(actions)
    with pytest.raises(ValueError, match="actions must have the shape"):
        env.step(actions[:2])


@each_task
def test_returned_arrays_do_not_change(task: str) -> None:
    """A replay keeps them: later steps must not change them, and they may be written to."""
    env = made(task)
    view = begin(env)
    kept = (view.observations.copy(), view.states.copy(), view.masks.copy())
    step = env.step(random_policy()(view))
    rewards = step.rewards.copy()
    env.step(random_policy()(step.view))
    for array, copy in zip((view.observations, view.states, view.masks), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
        array[...] = 0
    np.testing.assert_array_equal(step.rewards, rewards)


NATIVE = [
    (LBF, "lbforaging"),
    ("lbf/Foraging-2s-8x8-3p-2f-v3", "lbforaging"),
    ("mpe/simple_spread_v3", "mpe2"),
    ("vmas/balance", "vmas"),
]


@pytest.mark.parametrize(("task", "package"), NATIVE)
def test_the_environments_own_rewards_add_up(task: str, package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'rl-agg[marl]'")
    env = make_team_env(task, 2, credit="env")
    for _, _, step in play(env, random_policy(), 60):
        assert step.agent_rewards is not None
        np.testing.assert_allclose(step.agent_rewards.sum(axis=1), step.rewards, atol=1e-5)
    env.close()
    if task.startswith("lbf"):
        return
    mean = make_team_env(task, 2, credit="env", settings={"team_reward": "mean"})
    for _, _, step in play(mean, random_policy(), 3):
        assert step.agent_rewards is not None
        np.testing.assert_allclose(step.agent_rewards.mean(axis=1), step.rewards, atol=1e-5)
    mean.close()
