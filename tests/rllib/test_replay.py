"""Replays say whose each sample is and what its agent returned last, draw alike from a seed, and are restored with both."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_agg.aggregation._compat import write_column
from rllib_agg.aggregation.agents import AGENT, RETURN, agent_of
from rllib_agg.replay import REPLAYS
from rllib_agg.replay.buffers import TD_ERROR, PrioritizedAgentReplay
from tests.rllib.replay_configs import KINDS, NUM_AGENTS, tiny_dqn

DRAW: dict[str, Any] = {"num_items": 200, "n_step": 1, "beta": 0.4, "gamma": 0.99, "sample_episodes": True}


@pytest.fixture(scope="module")
def chunks(ray_session: None) -> list[list[Any]]:
    """What four agents sent in 60 samples of 8 steps each, as the env runner tagged it; observations tell episodes apart."""
    config = tiny_dqn()
    config.validate()
    runner = SingleAgentEnvRunner(config=config)
    return [runner.sample(num_timesteps=8 * NUM_AGENTS) for _ in range(60)]


def filled(kind: str, chunks: list[list[Any]], capacity: int = 10_000) -> Any:
    replay = REPLAYS[kind](capacity=capacity, seed=1)
    for episodes in copy.deepcopy(chunks):
        replay.add(episodes)
    return replay


def owners(chunks: list[list[Any]]) -> dict[bytes, int]:
    """The agent that saw each observation."""
    return {obs.tobytes(): agent_of(chunk) for episodes in chunks for chunk in episodes for obs in chunk.get_observations()}


def num_steps(chunks: list[list[Any]]) -> int:
    return sum(len(chunk) for episodes in chunks for chunk in episodes)


def last_returns(chunks: list[list[Any]]) -> dict[int, float]:
    """What each agent's last finished episode returned, from its chunks."""
    totals: dict[str, float] = {}
    returns = {}
    for episodes in chunks:
        for chunk in episodes:
            totals[chunk.id_] = totals.get(chunk.id_, 0.0) + chunk.get_return()
            if chunk.is_done:
                returns[agent_of(chunk)] = totals[chunk.id_]
    return returns


@pytest.mark.parametrize("capacity", [10_000, 300], ids=["all kept", "most evicted"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_name_their_agent_and_its_last_return(kind: str, capacity: int, chunks: list[list[Any]]) -> None:
    replay = filled(kind, chunks, capacity)
    owner, returns = owners(chunks), last_returns(chunks)
    assert len(returns) == NUM_AGENTS
    samples = replay.sample(**DRAW)
    assert len({owner[sample.get_observations(0).tobytes()] for sample in samples}) == NUM_AGENTS
    for sample in samples:
        agent = owner[sample.get_observations(0).tobytes()]
        assert list(sample.get_extra_model_outputs(AGENT)) == [agent]
        assert list(sample.get_extra_model_outputs(RETURN)) == [np.float32(returns[agent])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_replay_draws_the_same(kind: str, chunks: list[list[Any]]) -> None:
    replay = filled(kind, chunks)
    replay.sample(**DRAW)
    other = REPLAYS[kind](capacity=10_000, seed=2)
    other.set_state(copy.deepcopy(replay.get_state()))
    for one, two in zip(replay.sample(**DRAW), other.sample(**DRAW), strict=True):
        np.testing.assert_array_equal(one.get_observations(), two.get_observations())
        assert list(one.get_extra_model_outputs(AGENT)) == list(two.get_extra_model_outputs(AGENT))
        assert list(one.get_extra_model_outputs(RETURN)) == list(two.get_extra_model_outputs(RETURN))


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_state_is_restored_in_place_and_takes_what_runners_send_next(kind: str, chunks: list[list[Any]]) -> None:
    replay = filled(kind, chunks[:30])
    state = copy.deepcopy(replay.get_state())
    for episodes in copy.deepcopy(chunks[30:40]):
        replay.add(episodes)
    replay.set_state(state)
    assert replay.get_num_timesteps() == num_steps(chunks[:30])
    for episodes in copy.deepcopy(chunks[40:]):  # they go on from what is not stored
        replay.add(episodes)
    assert replay.get_num_timesteps() == num_steps(chunks[:30] + chunks[40:])
    owner = owners(chunks[:30] + chunks[40:])
    for sample in replay.sample(**DRAW):
        first, second = (obs.tobytes() for obs in sample.get_observations())
        assert owner[first] == owner[second] == sample.get_extra_model_outputs(AGENT, 0)


@pytest.mark.parametrize("capacity", [10_000, 300], ids=["all kept", "most evicted"])
def test_errors_are_the_first_priorities(capacity: int, chunks: list[list[Any]]) -> None:
    """Transitions are drawn in proportion to their errors to the power of alpha; an unknown error counts as the largest."""
    replay = PrioritizedAgentReplay(capacity=capacity, alpha=0.5, seed=1)
    expected: dict[bytes, float] = {}
    rng = np.random.default_rng(0)
    largest = 1.0
    for episodes in copy.deepcopy(chunks):
        errors = [rng.uniform(-4, 4, len(chunk)).astype(np.float32) for chunk in episodes]
        errors[0][0] = math.nan
        for chunk, own in zip(episodes, errors, strict=True):
            write_column(chunk, TD_ERROR, own)
            expected |= {
                obs.tobytes(): (largest if math.isnan(error) else abs(error)) ** 0.5
                for obs, error in zip(chunk.get_observations()[:-1], own, strict=True)
            }
        replay.add(episodes)
        kept = {episode.id_ for episode in replay.episodes}
        known = [np.abs(own[np.isfinite(own)]) for chunk, own in zip(episodes, errors, strict=True) if chunk.id_ in kept]
        largest = max(largest, *(float(own.max()) for own in known if len(own)))
    steps = [obs.tobytes() for episode in replay.episodes for obs in episode.get_observations()[:-1]]
    assert TD_ERROR not in replay.episodes[0].extra_model_outputs
    assert replay._sum_segment.sum() == pytest.approx(sum(expected[step] for step in steps), rel=1e-5)
    nodes = {
        node: replay.episodes[index - replay._num_episodes_evicted].get_observations(t) for index, t, node in replay._indices
    }
    for node, obs in nodes.items():
        assert replay._sum_segment[node] == pytest.approx(expected[obs.tobytes()], rel=1e-5)


def test_priorities_of_another_capacity_are_refused_before_anything_changes(chunks: list[list[Any]]) -> None:
    other = filled(KINDS[1], chunks[:5], capacity=100)
    before = copy.deepcopy(other.get_state())
    with pytest.raises(ValueError, match=r"has a capacity of 10000, .* into one of 100; set .*'capacity': 10000"):
        other.set_state(filled(KINDS[1], chunks).get_state())
    np.testing.assert_equal(other.get_state(), before)
