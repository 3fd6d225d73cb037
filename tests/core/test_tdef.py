"""TD-EF: updates worked by plain loops, and values that solve the linear system of the model."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rl_agg.population import Report, merge_reports, open_environments
from rl_agg.tabular import TabularEpisodes, TdefAgents, TdefLearner, TdefSettings
from rl_agg.tabular.episodes import sample_actions, unpacked
from tests.states import as_arrays

GAMMA = 0.9
GRID = "rl_agg/SimpleGrid-v0"


def run(id_: str = GRID, number: int = 0, **settings: Any) -> tuple[TdefLearner, TdefAgents]:
    shared = TdefSettings(**settings)
    agents = TdefAgents(TabularEpisodes(open_environments(id_, {}), gamma=GAMMA), shared)
    num_actions = agents.episodes.shape[1]
    return TdefLearner(agents.features, agents.policy, num_actions, gamma=GAMMA, run=number, settings=shared), agents


def train(server: TdefLearner, agents: TdefAgents, updates: int) -> Report:
    for _ in range(updates):
        report = agents.run(server.broadcast(), np.arange(server.num_agents + 1))
        server.receive(report)
    return report


def exact(id_: str, policy: np.ndarray) -> np.ndarray:
    """V = R + gamma P V, outcome by outcome."""
    model = gym.make(id_).unwrapped.P
    rewards, moves = np.zeros(len(model)), np.zeros((len(model), len(model)))
    for cell, actions in model.items():
        for action, outcomes in actions.items():
            for chance, landed, reward, terminated in outcomes:
                rewards[cell] += policy[cell, action] * chance * reward
                moves[cell, landed] += policy[cell, action] * chance * (not terminated)
    return np.linalg.solve(np.eye(len(model)) - GAMMA * moves, rewards)


def relative_error(server: TdefLearner, values: np.ndarray) -> float:
    return float(np.linalg.norm(server.values - values) / np.linalg.norm(values))


UNIFORM = np.full((25, 5), 0.2)


def directions_by_a_loop(theta: np.ndarray, episodes: list[np.ndarray]) -> np.ndarray:
    found = []
    for rows in episodes:
        direction = np.zeros(25)
        for cell, _, reward, after, goes_on in zip(*unpacked(rows), strict=True):
            direction[cell] += (reward + GAMMA * goes_on * theta[after] - theta[cell]) / len(rows)
        found.append(direction)
    return np.array(found)


def test_updates_are_those_of_a_plain_loop() -> None:
    """Top 2 of 25 with a memory of what was not sent, and its bits."""
    settings = {"population": 3, "lr": 0.5, "compression": "top_k", "compression_kwargs": {"number": 2}}
    server, agents = run(**settings)
    theta, memory = np.zeros(25), np.zeros((3, 25))
    for update in range(6):
        broadcast = server.broadcast()
        report = agents.run(broadcast, np.arange(4))
        directions = report.payload["gradients"].astype(np.float64)
        wanted, sent = memory + directions, np.zeros((3, 25))
        for agent in range(3):
            for place in np.argsort(-np.abs(wanted[agent]))[:2]:
                sent[agent, place] = wanted[agent, place]
        memory = wanted - sent
        theta = theta + 0.5 * sent.mean(axis=0)
        server.receive(report)
        np.testing.assert_allclose(server.theta, theta, atol=1e-5)
        assert server.ledger.messages == 3 * (update + 1)
    assert server.ledger.bytes == 18 * ((2 * (32 + 5) + 7) // 8)
    assert server.ledger.bytes_down == 18 * 25 * 4
    assert server.measures["mu_size"] == (2 * (32 + 5) + 7) // 8
    assert memory.any()


def test_directions_are_those_of_a_plain_loop() -> None:
    server, agents = run(population=3)
    server.theta = np.random.default_rng(0).normal(size=25).astype(np.float32)
    seen: list[np.ndarray] = []
    whole = agents.message

    def message(theta: np.ndarray, rows: np.ndarray, *rest: Any) -> Any:
        seen.append(rows)
        return whole(theta, rows, *rest)

    agents.message = message  # type: ignore[method-assign]
    report = agents.run(server.broadcast(), np.arange(4))
    expected = directions_by_a_loop(server.theta.astype(np.float64), seen)
    np.testing.assert_allclose(report.payload["gradients"], expected, rtol=1e-5, atol=1e-6)


CODECS = [("identity", {}), ("top_k", {"number": 1}), ("sign", {})]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("compression", "kwargs"), [pytest.param(*codec, marks=SLOW if codec[0] != "top_k" else ()) for codec in CODECS]
)
def test_values_of_the_uniform_policy(compression: str, kwargs: dict[str, Any]) -> None:
    server, agents = run(lr=5.0, compression=compression, compression_kwargs=kwargs)
    values = exact(GRID, UNIFORM)
    assert relative_error(server, values) == 1.0
    train(server, agents, 250)
    assert relative_error(server, values) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("id_", [GRID, "rl_agg/WindyGrid-v0", "rl_agg/FrozenLake5x5-v0"])
@pytest.mark.parametrize(
    ("compression", "kwargs"),
    [
        *CODECS,
        ("top_k", {"number": 1, "error_feedback": "ef21"}),
        ("quantize", {"levels": 1}),
        ("ternary", {}),
        ("float16", {}),
    ],
)
def test_values_of_the_uniform_policy_on_every_grid(id_: str, compression: str, kwargs: dict[str, Any]) -> None:
    server, agents = run(id_, lr=5.0, compression=compression, compression_kwargs=kwargs)
    values = exact(id_, UNIFORM)
    train(server, agents, 1500)
    assert relative_error(server, values) < (0.5 if "Lake" in id_ else 0.2)  # the goal of the lake is seldom reached


def test_values_of_a_policy_of_ones_own_by_linear_features() -> None:
    """Features that span the values: what was learned is them, whatever cells are visited most."""
    generator = np.random.default_rng(3)
    policy = generator.dirichlet(np.ones(5), size=25)
    values = exact(GRID, policy)
    features = np.stack([values / 10, generator.normal(size=25) / 3], axis=1)
    features[24] = 0  # after the end there is nothing
    server, agents = run(policy=policy.tolist(), features=features.tolist(), lr=1.0, compression="sign")
    assert server.theta.shape == (2,)
    train(server, agents, 120)
    assert relative_error(server, values) < 0.1
    np.testing.assert_allclose(server.theta, [10, 0], atol=1)
    np.testing.assert_allclose(np.exp(server.action_values), policy, rtol=1e-5)


def test_actions_are_drawn_by_their_probabilities() -> None:
    draws = np.stack([np.zeros(10_000), np.linspace(0, 1, 10_000, endpoint=False)], axis=1)
    chosen = sample_actions(np.tile([0.0, 0.5, 0.2, 0.3], (10_000, 1)), draws, np.zeros(10_000))
    assert np.bincount(chosen, minlength=4).tolist() == [0, 5000, 2000, 3000]


@pytest.mark.parametrize("compression", [pytest.param("identity", marks=SLOW), "top_k"])
def test_control_solves_simple_grid(compression: str) -> None:
    kwargs = {} if compression == "identity" else {"fraction": 0.1}
    server, agents = run(policy="greedy", lr=30.0, compression=compression, compression_kwargs=kwargs)
    report = train(server, agents, 400)
    assert (report.lengths[-1], report.returns[-1]) == (8, -7.0)
    assert server.action_values.shape == (25, 5)
    np.testing.assert_array_equal(server.values, server.action_values.max(axis=1))


def test_without_compression_it_is_the_mean_direction() -> None:
    server, agents = run(compression="identity", lr=0.5)
    train(server, agents, 3)
    before, report = server.theta.copy(), agents.run(server.broadcast(), np.arange(6))
    server.receive(report)
    np.testing.assert_allclose(server.theta, before + 0.5 * report.payload["gradients"].mean(axis=0), rtol=1e-6, atol=1e-6)
    assert server.ledger.bytes == server.ledger.messages * 25 * 4


def test_a_gate_goes_with_it() -> None:
    server, agents = run(communication="random", communication_kwargs={"expected_messages": 2}, population=4)
    train(server, agents, 30)
    assert 30 < server.ledger.messages < 90
    assert server.ledger.bytes == server.ledger.messages * 5


def test_an_update_without_a_finite_episode_is_skipped_and_its_broadcast_counted() -> None:
    server, agents = run(population=2)
    report = agents.run(server.broadcast(), np.arange(3))
    report.returns[:] = report.discounted[:] = np.nan
    nothing = {"senders": np.zeros(0, np.uint16), "payload": {"gradients": np.empty((0, 25))}}
    server.receive(dataclasses.replace(report, **nothing))
    assert (server.num_skipped, server.ledger.messages, server.ledger.bytes_down) == (1, 0, 2 * 25 * 4)
    assert not server.theta.any()


@pytest.mark.parametrize(
    "settings",
    [
        {"compression": "quantize", "compression_kwargs": {"levels": 2}},
        {"compression": "top_k", "compression_kwargs": {"number": 1, "error_feedback": "ef21"}, "policy": "greedy"},
    ],
)
def test_split_agents_and_restored_state_are_exact(settings: dict[str, Any]) -> None:
    whole, split, restored = run(**settings), run(**settings), run(number=7, **settings)
    train(*whole, 6)
    for _ in range(3):
        broadcast = split[0].broadcast()
        split[0].receive(merge_reports([split[1].run(broadcast, agents) for agents in (np.arange(2, 6), np.arange(2))]))
    restored[0].load_state_dict(split[0].state_dict())
    train(*restored, 3)
    np.testing.assert_equal(as_arrays(restored[0].state_dict()), as_arrays(whole[0].state_dict()))
    assert bool(restored[0].state_dict()["exchange"]["uplink"]["memory"].any())


def test_another_codec_starts_with_an_empty_memory() -> None:
    server, agents = run()
    train(server, agents, 3)
    other, _ = run(compression="sign")
    other.load_state_dict(server.state_dict())
    assert other.state_dict()["exchange"]["uplink"]["memory"] is None
    np.testing.assert_array_equal(other.theta, server.theta)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TdefSettings(policy="unifrom"), "unknown policy 'unifrom' .did you mean 'uniform'.*greedy, uniform"),
        (lambda: TdefSettings(policy=[[0.5, 0.6]]), r"policy must be probabilities \[C, U\] that sum to 1 in each cell"),
        (lambda: TdefSettings(policy=[[-1.0, 2.0]]), "policy must be probabilities"),
        (lambda: TdefSettings(policy=[0.5, 0.5]), r"policy must be finite numbers \[C, U\], got shape \(2,\)"),
        (lambda: run(policy=[[0.5, 0.5]]), r"policy must be probabilities \[C, U\] = \[25, 5\], got shape \(1, 2\)"),
        (lambda: run(features=np.ones((3, 2))), "with C = 25 cells, got shape"),
        (lambda: TdefSettings(epsilon=0.3), "epsilon=0.3 is of agents with policy='greedy'; leave it out"),
        (lambda: TdefSettings(compression="topk"), "unknown compression 'topk' .did you mean 'top_k'"),
        (lambda: TdefSettings(compression_kwargs={"fraction": 0}), "fraction must be a finite number > 0 and <= 1, got 0"),
        (lambda: TdefSettings(compression_kwargs=5), "compression_kwargs must be a dict, got 5"),
        (lambda: TdefSettings(compression="identity", compression_kwargs={"error_feedback": True}), "nothing to feed back"),
        (lambda: TdefSettings(communication="gain"), "reads gains, which this algorithm does not provide"),
        (lambda: TdefSettings(communication="espc"), "decides about scores, but payload 'gradients'"),
        (lambda: TdefSettings(lr=0), "lr must be a finite number > 0, got 0"),
    ],
)
def test_bad_settings(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
