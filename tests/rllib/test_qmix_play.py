"""Episodes of teams, and their way through the replay."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.qmix.episodes import TeamEpisodes, action_dtype, pack, unpack
from rllib_agg.qmix.networks import AgentNetworks
from rllib_agg.qmix.replay import EpisodeReplay, ReplaySettings
from rllib_agg.qmix.rollout import Played, TeamBroadcast, TeamPlayers, TeamReport, choose_actions, join_team_reports
from tests.rllib.team_worlds import Corridor


def players(num_envs: int = 6, credit: str = "contribution", dtype: str = "float32", **settings: Any) -> TeamPlayers:
    env = Corridor(num_envs, credit, **settings)
    torch.manual_seed(0)
    networks = AgentNetworks(env.spec.num_agents, 3, 4, hidden=5, shared=False, agent_ids=False)
    return TeamPlayers(env, networks, dtype=np.dtype(dtype))


def play(team: TeamPlayers, epsilon: float = 1.0, seed: int = 0) -> Played:
    return team.play(team.networks, epsilon, np.random.default_rng(seed))


def test_what_is_stored_is_what_happened() -> None:
    team = players()
    played = play(team)
    env, episodes = team.env, played.episodes
    assert len(episodes) == 6
    assert played.won is not None
    assert (played.won == episodes.terminated).all()  # here, termination is a win
    assert {True, False} == set(episodes.terminated.tolist())
    masks = episodes.unpacked_masks(3)
    for episode, length in enumerate(episodes.lengths.tolist()):
        places, total, earned = np.zeros(3), 0.0, np.zeros(3)
        way = episodes.observations[episode, 0, 0, 1]
        for step in range(length):
            actions = env.actions[step][episode]
            assert (episodes.actions[episode, step] == actions).all()
            assert (episodes.observations[episode, step, :, 0] == places).all()
            assert episodes.states[episode, step].tolist() == [places.sum(), step]
            assert (masks[episode, step, :, 0] == (places == way)).all()
            assert masks[episode, step, np.arange(3), actions].all()
            moved = actions == 1
            places += moved
            earned += moved * [1, 2, 3]
            assert episodes.rewards[episode, step] == (moved * [1, 2, 3]).sum()
            total += episodes.rewards[episode, step]
        assert (episodes.observations[episode, length, :, 0] == places).all()  # the terminal one
        assert not episodes.observations[episode, length + 1 :].any()
        assert played.returns[episode] == total
        assert (played.credits[episode] == earned).all()
        assert episodes.terminated[episode] == (places == way).all()
        assert length == 6 or episodes.terminated[episode]
    assert played.num_steps == episodes.lengths.sum()


def test_team_credit_is_the_teams_reward_for_each() -> None:
    played = play(players(credit="team"))
    assert (played.credits == played.returns[:, None]).all()


def test_hidden_states_and_last_actions_advance_on_random_steps() -> None:
    """What is played greedily last equals what the learner computes of the stored episode from t = 0."""
    team = players(limit=5)
    seen: list[torch.Tensor] = []
    networks = team.networks
    forward = networks.forward

    def recorded(inputs: torch.Tensor, start: torch.Tensor) -> Any:
        values, hidden = forward(inputs, start)
        seen.append(values[:, 0])
        return values, hidden

    networks.forward = recorded  # type: ignore[method-assign]
    played = play(team, epsilon=0.7)
    networks.forward = forward  # type: ignore[method-assign]
    episodes = played.episodes
    actions = torch.from_numpy(episodes.actions.astype(np.int64))
    last = torch.cat([torch.full_like(actions[:, :1], -1), actions], dim=1)
    values, _ = networks(networks.arrange(torch.from_numpy(episodes.observations), last), networks.start(6))
    for episode, length in enumerate(episodes.lengths.tolist()):
        for step in range(length):
            torch.testing.assert_close(values[episode, step], seen[step][episode], rtol=1e-5, atol=1e-6)


def test_each_agent_draws_its_own_epsilon() -> None:
    values, masks = np.zeros((4000, 3, 5), np.float32), np.ones((4000, 3, 5), bool)
    values[..., 4] = 1.0
    masks[..., 3] = False
    actions = choose_actions(values, masks, 0.4, np.random.default_rng(0))
    random = actions != 4
    share = 0.4 * 3 / 4  # of the random ones, one in four is the best
    assert random.mean() == pytest.approx(share, abs=0.02)
    both = (random[:, 0] & random[:, 1]).mean()
    assert both == pytest.approx(share**2, abs=0.02)
    assert not (actions == 3).any()
    for action in range(3):
        assert (actions == action).mean() == pytest.approx(0.1, abs=0.01)
    assert (choose_actions(values, masks, 0.0, np.random.default_rng(0)) == 4).all()


def test_the_best_is_the_best_of_the_legal_ones() -> None:
    values = np.array([[[1.0, 5.0, 3.0]]], np.float32)
    assert choose_actions(values, np.array([[[True, False, True]]]), 0.0, np.random.default_rng(0)).item() == 2


def test_groups_do_not_depend_on_process_and_order() -> None:
    team = players()
    weights = {name: value.numpy().copy() for name, value in team.networks.state_dict().items()}
    broadcast = TeamBroadcast(run=3, round=7, epsilon=0.5, weights=weights)
    whole = team.run(broadcast, np.arange(4))
    parts = [
        players().run(broadcast, np.array([1, 3])),
        players().run(broadcast, np.array([0, 2])),
        players().run(broadcast, np.array([2])),
    ]
    merged = join_team_reports(parts)
    assert merged.agents.tolist() == [0, 1, 2, 3]
    for one, two in zip(whole.played, merged.played, strict=True):
        for name, array in one.episodes.arrays().items():
            assert (array == getattr(two.episodes, name)).all()
    assert not np.array_equal(whole.played[0].returns, whole.played[1].returns)
    assert join_team_reports([TeamReport(np.arange(4), whole.played)]).played == whole.played


@pytest.mark.parametrize("faults", ["lost", "nan"])
def test_broken_episodes_are_thrown_away_and_counted(faults: str) -> None:
    team = players(num_envs=12, faults=faults)
    played = play(team)
    faulty = team.env.seeds % 3 == 0  # type: ignore[attr-defined]
    assert 0 < faulty.sum() < 12
    assert played.num_lost == faulty.sum()
    assert len(played.episodes) == len(played.returns) == len(played.credits) == 12 - faulty.sum()
    assert np.isfinite(played.returns).all()
    assert played.num_steps > played.episodes.lengths.sum()


def test_an_agent_without_a_legal_action_raises() -> None:
    with pytest.raises(ValueError, match="agent 2 has no legal action"):
        play(players(faults="stuck"))


def test_one_agent_plays() -> None:
    assert play(players(agents=1)).episodes.observations.shape[2] == 1


def test_float16_and_what_does_not_fit_into_it() -> None:
    exact, half = play(players()), play(players(dtype="float16"))
    assert half.episodes.observations.dtype == half.episodes.states.dtype == np.float16
    np.testing.assert_allclose(half.episodes.observations, exact.episodes.observations, rtol=1e-3)
    with pytest.raises(ValueError, match=re.escape("an observation of 100000 does not fit into float16")):
        play(players(dtype="float16", seen=1e5))


SPEC = TeamSpec(2, 9, 3, 2, 8, ("a", "a"))


def episode_of(index: int, length: int) -> TeamEpisodes:
    """One, filled with its number."""
    made = TeamEpisodes.zeros(1, length, SPEC, np.dtype(np.float32))
    for array in made.arrays().values():
        array[...] = index % 2 if array.dtype == np.bool_ else index
    made.lengths[...] = length
    return made


def test_the_replay_keeps_the_last_and_draws_each_once() -> None:
    replay = EpisodeReplay(SPEC, ReplaySettings(capacity=5))
    lengths = {index: 1 + index % 8 for index in range(12)}
    for index, length in lengths.items():
        replay.add(episode_of(index, length))
    assert len(replay) == 5
    drawn = replay.sample(np.random.default_rng(0), 5)
    assert sorted(drawn.observations[:, 0, 0, 0].tolist()) == [7, 8, 9, 10, 11]
    assert drawn.actions.shape[1] == max(lengths[index] for index in range(7, 12))
    for row in range(5):
        index = int(drawn.observations[row, 0, 0, 0])
        length = lengths[index]
        assert drawn.lengths[row] == length
        assert (drawn.observations[row, : length + 1] == index).all()
        assert (drawn.masks[row, : length + 1] == index).all()
        assert (drawn.actions[row, :length] == index).all()
        assert drawn.terminated[row] == index % 2
    counts = np.zeros(12)
    for seed in range(300):
        for index in replay.sample(np.random.default_rng(seed), 2).observations[:, 0, 0, 0]:
            counts[int(index)] += 1
    np.testing.assert_allclose(counts[7:], 120, rtol=0.3)


def test_more_episodes_at_once_than_it_holds() -> None:
    replay, many = EpisodeReplay(SPEC, ReplaySettings(capacity=3)), TeamEpisodes.zeros(7, 4, SPEC, np.dtype(np.float32))
    many.rewards[:, 0] = np.arange(7)
    many.lengths[...] = 4
    replay.add(many)
    assert sorted(replay.sample(np.random.default_rng(0), 3).rewards[:, 0].tolist()) == [4, 5, 6]


def test_a_saved_replay_restores_to_the_bit() -> None:
    replay = EpisodeReplay(SPEC, ReplaySettings(capacity=5))
    for index in range(7):
        replay.add(episode_of(index, 3 + index % 3))
    state = replay.state_dict()
    other = EpisodeReplay(SPEC, ReplaySettings(capacity=5))
    other.add(episode_of(99, 8))
    other.load_state_dict(state)
    for each in (replay, other):
        each.add(episode_of(20, 8))
    one, two = (each.sample(np.random.default_rng(1), 5) for each in (replay, other))
    for name, array in one.arrays().items():
        for row, length in enumerate(one.lengths.tolist()):
            assert np.array_equal(array[row][:length], getattr(two, name)[row][:length]) if array.ndim > 1 else True
    assert (one.lengths == two.lengths).all()
    with pytest.raises(ValueError, match="the saved replay has another capacity, precision or environment"):
        EpisodeReplay(SPEC, ReplaySettings(capacity=4)).load_state_dict(state)
    with pytest.raises(ValueError, match="the saved replay has another capacity, precision or environment"):
        EpisodeReplay(SPEC, ReplaySettings(capacity=5, dtype="float16")).load_state_dict(state)


@pytest.mark.parametrize("num_actions", [1, 7, 8, 9, 30])
def test_masks_are_bits(num_actions: int) -> None:
    masks = np.random.default_rng(0).random((4, 3, num_actions)) < 0.5
    bits = pack(masks)
    assert bits.shape == (4, 3, -(-num_actions // 8))
    assert (unpack(bits, num_actions) == masks).all()


def test_actions_take_as_little_as_they_can() -> None:
    assert [action_dtype(count).itemsize for count in (1, 30, 256, 257)] == [1, 1, 1, 2]


CORRIDOR = TeamSpec(6, 30, 156, 282, 400, ("zealot",) * 6)
"""Sizes of SMAC's corridor."""


def test_5000_corridor_episodes_fit_into_5_gb_of_halves() -> None:
    settings = ReplaySettings(capacity=5000, dtype="float16")
    assert settings.bytes_for(CORRIDOR) <= 5e9
    assert EpisodeReplay(SPEC, ReplaySettings(capacity=9)).nbytes == ReplaySettings(capacity=9).bytes_for(SPEC)


def test_the_replays_size_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="rllib_agg.qmix.replay"):
        ReplaySettings(dtype="float16").check(CORRIDOR)
    assert "5000 episodes of up to 400 steps of 6 agents take 4.95 GB in float16, when it is full" in caplog.text


def test_a_replay_too_large_is_refused() -> None:
    with pytest.raises(
        ValueError, match=re.escape("9.84 GB in float32, and max_gb is 8. Set in replay_buffer_config")
    ) as error:
        ReplaySettings().check(CORRIDOR)
    assert f"a capacity of {int(8e9 // 1_967_305)}, dtype='float16' (4.95 GB), or a larger max_gb" in str(error.value)
    with pytest.raises(ValueError, match="a capacity of 40, or a larger max_gb"):
        ReplaySettings(dtype="float16", max_gb=0.04).check(CORRIDOR)
    with pytest.raises(ValueError, match=r"Set in replay_buffer_config a larger max_gb$"):
        ReplaySettings(max_gb=1e-9).check(CORRIDOR)
