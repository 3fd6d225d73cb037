"""A user's own environment: unequal agents that die, join or are alone; masks, states, ends and rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rllib_agg.envs.team.registry import make_team_env
from tests.rllib.named_worlds import Corridor, Lights
from tests.rllib.teams import begin


def corridor(**settings: Any) -> tuple[Any, list[Corridor]]:
    """One copy, and the environment in it."""
    worlds: list[Corridor] = []

    def make(context: Any) -> Corridor:
        worlds.append(Corridor(context))
        return worlds[-1]

    return make_team_env(make, 1, credit="env", settings={"max_episode_steps": 20, **settings}), worlds


def test_unequal_agents_are_padded() -> None:
    env, _ = corridor()
    view = begin(env)
    assert (env.spec.observation_size, env.spec.num_actions, env.spec.state_size) == (2, 3, 4)
    assert view.masks.tolist() == [[[True, True, False], [True, True, False]]]
    step = env.step(np.array([[1, 1]]))
    assert step.view.observations.tolist() == [[[1, 0], [2, 2]]]
    assert step.view.states.tolist() == [[1, 0, 2, 2]]
    assert step.view.masks.tolist() == [[[True, True, False], [True, True, True]]]
    with pytest.raises(ValueError, match=r"action 2 of agent 0 in copy 0 is not legal; choose from \[0, 1\]"):
        env.step(np.array([[2, 1]]))


def test_actions_are_sent_as_their_space_counts_them() -> None:
    env, (world,) = corridor()
    begin(env)
    env.step(np.array([[0, 1]]))
    assert world.received == [{"walker_0": 0, "walker_1": 6}]


def test_an_agent_that_has_left_does_nothing_and_one_that_joins_begins() -> None:
    env, (world,) = corridor(length=2, late=3)
    view = begin(env)
    assert view.observations.tolist() == [[[0, 0], [0, 0]]]
    assert view.masks[0, 1].tolist() == [True, False, False]  # not there yet
    rewards, steps = [], []
    for _ in range(5):
        forwards = np.where(view.masks[:, :, 1], 1, 0)
        steps.append(env.step(forwards))
        view = steps[-1].view
        rewards.append(steps[-1].agent_rewards[0].tolist())
    assert world.received == [{"walker_0": 1}, {"walker_0": 1}, {}, {"walker_1": 6}, {"walker_1": 6}]
    assert rewards == [[1, 0], [1, 0], [0, 0], [0, 1], [0, 1]]
    assert [bool(step.terminated[0]) for step in steps] == [False] * 4 + [True]
    assert steps[1].view.masks[0, 0].tolist() == [True, False, False]
    assert not steps[1].view.observations[0, 0].any()
    assert steps[-1].view.observations[0, 1].tolist() == [4, 4]  # the last one of the episode
    assert steps[-1].view.masks[0, 1].tolist() == [True, False, False]  # where its own mask is all zero


def test_the_time_limit_truncates() -> None:
    env, (world,) = corridor(max_episode_steps=3)
    begin(env)
    ends = [env.step(np.zeros((1, 2), dtype=np.int64)) for _ in range(4)]
    assert [bool(step.truncated[0]) for step in ends[:3]] == [False, False, True]
    assert not any(step.terminated[0] for step in ends)
    assert len(world.received) == 3  # an episode that is over is not stepped


def test_one_agent_alone() -> None:
    env, _ = corridor(alone=True, length=1)
    view = begin(env)
    assert (env.spec.num_agents, env.spec.num_actions) == (1, 2)
    assert view.observations.shape == (1, 1, 1)
    step = env.step(np.array([[1]]))
    assert step.terminated.all()
    assert step.rewards.tolist() == [1.0]


def test_an_agent_without_a_legal_action_is_named() -> None:
    env, _ = corridor(stuck=True)
    with pytest.raises(ValueError, match="agent 1 has no legal action after 0 steps: its mask is all zero"):
        begin(env)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_mask_of_another_length_is_refused(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    env, (world,) = corridor()
    seen = world._seen({"walker_0", "walker_1"})
    seen["walker_1"]["action_mask"] = np.ones(length, dtype=np.int8)
    monkeypatch.setattr(world, "_seen", lambda agents: seen)
    with pytest.raises(ValueError, match=rf"the action_mask of 'walker_1' must be \[3\], got shape \({length},\)"):
        begin(env)


def test_an_unknown_agent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    env, (world,) = corridor()
    monkeypatch.setattr(world, "_seen", lambda agents: {"walker_2": np.zeros(1)})
    with pytest.raises(ValueError, match=r"unknown agent 'walker_2' .*; choose from walker_0, walker_1"):
        begin(env)


def test_state_wins_and_types_of_the_user() -> None:
    env, (world,) = corridor(
        length=1,
        state=lambda world, seen: np.array([[world.time, len(seen)]]),
        won=lambda world, infos: infos["walker_0"]["time"] == 2,
        agent_types={"walker_0": "old", "walker_1": "young"},
        team_reward="mean",
    )
    assert (env.spec.state_size, env.spec.has_wins, env.spec.agent_types) == (2, True, ("old", "young"))
    assert begin(env, 17).states.tolist() == [[0, 2]]
    assert world.seed == 17
    first = env.step(np.array([[1, 0]]))
    assert (first.rewards.tolist(), first.won.tolist()) == ([0.5], [False])
    last = env.step(np.array([[0, 1]]))
    assert (last.view.states.tolist(), last.terminated.tolist(), last.won.tolist()) == ([[2, 1]], [True], [True])


def test_a_parallel_environment_ends_with_its_agents() -> None:
    env = make_team_env(Lights, 1, credit="env")
    view = begin(env)
    assert view.states.tolist() == [[0, 2]]
    assert view.observations.tolist() == [[[0, 1], [0, 1]]]  # Discrete, one-hot
    first = env.step(np.array([[1, 0]]))
    assert first.agent_rewards.tolist() == [[1, 0]]
    assert not first.terminated.any()
    assert first.view.masks.tolist() == [[[True, False], [True, True]]]
    last = env.step(np.array([[0, 1]]))
    assert last.terminated.all()
    assert not last.truncated.any()
    begin(env)
    cut = [env.step(np.zeros((1, 2), dtype=np.int64)) for _ in range(4)][-1]
    assert cut.truncated.all()
    assert not cut.terminated.any()


def test_a_parallel_environment_without_a_state_has_the_observations() -> None:
    env = make_team_env(Lights, 1, settings={"has_state": False})
    assert begin(env).states.tolist() == [[0, 1, 0, 1]]


def test_copies_are_closed_when_one_cannot_be_made() -> None:
    worlds: list[Lights] = []

    def make(context: Any) -> Lights:
        if context.vector_index == 2:
            raise RuntimeError("no third")
        worlds.append(Lights(context))
        worlds[-1].agents = ["lamp_0"]
        return worlds[-1]

    with pytest.raises(RuntimeError, match="no third"):
        make_team_env(make, 3)
    assert [world.agents for world in worlds] == [[], []]
