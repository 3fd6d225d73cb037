"""Tabular learners against hand-worked updates, finite differences and known values."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

import rl_agg.envs  # noqa: F401  registers the grids
from rl_agg import register_gate
from rl_agg.gates import GainThreshold, Offer, TdErrorTrigger, TransitionGate
from rl_agg.population import ListedEnvironments, Report, merge_reports, open_environments
from rl_agg.tabular import (
    TRANSITION,
    DaviaAgents,
    DaviaLearner,
    DaviaSettings,
    QAgents,
    QLearner,
    QSettings,
    TabularEpisodes,
    model_of,
)
from rl_agg.tabular.davia import gradient_and_gain
from rl_agg.tabular.episodes import LAST, choose_actions, unpacked
from rl_agg.tabular.features import make_features
from rl_agg.tabular.q_learning import td_errors
from tests.states import as_arrays


class Chain(gym.Env[int, int]):
    """Two cells. Action 0 stays and pays 0.1; action 1 goes on: from 0 to 1 for 0, from 1 to the end for 1."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)
    P: ClassVar[Any] = {cell: {0: [(1.0, cell, 0.1, False)], 1: [(1.0, 1, float(cell), cell == 1)]} for cell in range(2)}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._cell = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        _, self._cell, reward, terminated = self.P[self._cell][int(action)][0]
        return self._cell, reward, terminated, False, {}


GAMMA = 0.8
CHAIN_Q = np.array([[0.1 + GAMMA * 0.8, GAMMA * 1.0], [0.1 + GAMMA * 1.0, 1.0]])


def chain() -> TabularEpisodes:
    return TabularEpisodes(ListedEnvironments(Chain), gamma=GAMMA, max_episode_steps=20)


def grid(id_: str = "rl_agg/SimpleGrid-v0") -> TabularEpisodes:
    return TabularEpisodes(open_environments(id_, {}), gamma=0.9)


def q_learning(episodes: TabularEpisodes, run: int = 0, **settings: Any) -> tuple[QLearner, QAgents]:
    shared = QSettings(**settings)
    return QLearner(episodes.shape, gamma=episodes.gamma, run=run, settings=shared), QAgents(episodes, shared)


def davia(episodes: TabularEpisodes, run: int = 0, **settings: Any) -> tuple[DaviaLearner, DaviaAgents]:
    shared = DaviaSettings(**settings)
    agents = DaviaAgents(episodes, shared)
    return DaviaLearner(agents.features, agents.model, gamma=episodes.gamma, run=run, settings=shared), agents


def train(server: Any, agents: Any, updates: int) -> Report:
    for _ in range(updates):
        report = agents.run(server.broadcast(), np.arange(server.num_agents + 1))
        server.receive(report)
    return report


TRIGGERED = {"communication": "td_error"}


@pytest.mark.parametrize("gate", [{}, {**TRIGGERED, "communication_kwargs": {"epsilon": 1e-4}}])
def test_known_values_of_a_chain(gate: dict[str, Any]) -> None:
    server, agents = q_learning(chain(), epsilon=0.5, **gate)
    train(server, agents, 150)
    np.testing.assert_allclose(server.action_values, CHAIN_Q, atol=1e-3)


def test_known_action_values_of_a_model() -> None:
    values = np.array([0.8, 1.0])
    np.testing.assert_allclose(model_of(ListedEnvironments(Chain)).action_values(values, GAMMA), CHAIN_Q)


def rows(*samples: tuple[int, int, float, int, bool]) -> np.ndarray:
    packed = [(cell, action + LAST * last, reward, after) for cell, action, reward, after, last in samples]
    return np.array(packed, dtype=TRANSITION)


def report_of(samples: np.ndarray, senders: list[int], population: int) -> Report:
    ids = np.arange(population)
    zeros = np.zeros(population)
    payload = {"transitions": samples}
    return Report(ids, zeros, zeros, ids, zeros[:, None][:, :0], np.array(senders, np.uint16), payload)


def test_one_update_by_hand() -> None:
    server = QLearner((2, 2), gamma=0.5, run=0, settings=QSettings(population=2, lr=0.5, initial_value=1.0))
    samples = rows((0, 1, 2.0, 1, False), (0, 1, 4.0, 1, True), (0, 0, 1.0, 0, False), (0, 1, 6.0, 1, False))
    assert td_errors(np.ones((2, 2)), samples, 0.5).tolist() == [1.5, 3.0, 0.5, 5.5]
    server.receive(report_of(samples, [0, 0, 1, 1], 2))
    # Only the samples of that very action count, not all of the cell
    assert server.action_values[0, 1] == pytest.approx(1 + 0.5 * (1.5 + 3.0 + 5.5) / 3)
    assert server.action_values[0, 0] == pytest.approx(1 + 0.5 * 0.5)
    assert server.action_values[1].tolist() == [1.0, 1.0]
    assert server.ledger.bytes_per_agent.tolist() == [18, 18]
    assert server.ledger.messages == 2
    assert server.measures["mu_size"] == 18.0
    assert server.ledger.bytes_down == 2 * 4 * 4


def test_a_sample_is_nine_bytes_and_reads_back() -> None:
    samples = rows((65535, 127, -1.5, 7, True), (3, 0, 2.0, 9, False))
    assert samples.itemsize == 9
    cells, actions, rewards, after, continues = unpacked(samples)
    assert (cells.tolist(), actions.tolist(), rewards.tolist()) == ([65535, 3], [127, 0], [-1.5, 2.0])
    assert (after.tolist(), continues.tolist()) == ([7, 9], [0.0, 1.0])


def test_time_limit_is_no_end() -> None:
    """Staying for good is cut off after 20 steps, and none of them is marked as the last."""
    server, agents = q_learning(chain(), population=1, epsilon=0.0)
    server.theta = np.array([1, 0, 1, 0], np.float32)
    report = agents.run(server.broadcast(), np.arange(1))
    assert report.lengths[0] == 20
    assert (report.payload["transitions"]["action"] == 0).all()


def test_agents_send_what_their_trigger_lets_through() -> None:
    settings = {"rho": 0.5, "beta": 0.3, "epsilon": 0.2}
    server, agents = q_learning(grid(), **TRIGGERED, communication_kwargs=settings, population=3)
    everything = QAgents(grid(), QSettings(population=3))
    trigger = TdErrorTrigger(3, **settings)
    usual = np.zeros(3)
    for _ in range(5):
        broadcast = server.broadcast()
        table = broadcast.theta.astype(np.float64).reshape(25, 5)
        sent, full = agents.run(broadcast, np.arange(4)), everything.run(broadcast, np.arange(4))
        for agent in range(3):
            samples = full.payload["transitions"][full.senders == agent]
            kept, usual[agent] = trigger.decide_transitions(td_errors(table, samples, 0.9), usual[agent])
            np.testing.assert_array_equal(sent.payload["transitions"][sent.senders == agent], samples[kept])
        np.testing.assert_array_equal(sent.memory[:3, 0], usual)
        server.receive(sent)


class EverySecond(TransitionGate):
    """Send every second transition, over the episodes of an agent."""

    def decide_transitions(self, errors: np.ndarray, usual: float) -> tuple[np.ndarray, float]:
        numbers = usual + np.arange(len(errors))
        return numbers % 2 == 0, usual + len(errors)


def test_a_gate_of_a_users_own() -> None:
    register_gate("every_second", EverySecond)
    server, agents = q_learning(chain(), population=2, communication="every_second")
    lengths = np.zeros(2)
    for _ in range(3):
        lengths += train(server, agents, 1).lengths[:2]
    assert server.memory[:, 0].tolist() == lengths.tolist()
    assert (server.ledger.bytes_per_agent == 9 * np.ceil(lengths / 2)).all()
    other, _ = q_learning(chain(), population=2, **TRIGGERED)
    other.load_state_dict(server.state_dict())
    assert not other.memory.any()
    assert other.ledger.bytes == server.ledger.bytes


class EvenUpdates(GainThreshold):
    def decide(self, offer: Offer) -> torch.Tensor:
        return torch.full_like(offer.present, offer.step % 2 == 0)


def test_davia_asks_a_gate_of_a_users_own() -> None:
    register_gate("even_updates", EvenUpdates)
    server, agents = davia(grid(), communication="even_updates", population=3)
    assert [len(train(server, agents, 1).senders) for _ in range(4)] == [3, 0, 3, 0]


def test_davia_without_a_gate_sends_every_gradient() -> None:
    server, agents = davia(grid(), communication="every", population=3)
    train(server, agents, 4)
    assert server.ledger.messages == 12


def test_equally_good_actions_are_equally_likely() -> None:
    draws = np.stack([np.zeros(9000) + 0.99, np.linspace(0, 1, 9000, endpoint=False)], axis=1)
    values = np.tile([1.0, 3.0, 3.0, 0.0, 3.0], (9000, 1))
    chosen = choose_actions(values, draws, np.full(9000, 0.1))
    assert np.bincount(chosen, minlength=5).tolist() == [0, 3000, 3000, 0, 3000]
    draws[:, 0] = 0.05
    assert np.bincount(choose_actions(values, draws, np.full(9000, 0.1)), minlength=5).tolist() == [1800] * 5


def solved(report: Report) -> bool:
    return report.lengths[-1] == 8 and report.returns[-1] == -7.0


def test_simple_grid_is_solved_and_triggering_saves_bytes() -> None:
    settings = {"lr": 1.0, "population": 5}
    every, agents = q_learning(grid(), **settings)
    assert solved(train(every, agents, 400))
    trigger = {"rho": 0.9, "beta": 0.01, "epsilon": 0.1}
    some, agents = q_learning(grid(), **TRIGGERED, communication_kwargs=trigger, **settings)
    assert solved(train(some, agents, 400))
    assert some.ledger.bytes < 0.15 * every.ledger.bytes  # most of them in the first ten updates
    before = some.ledger.bytes, every.ledger.bytes
    train(every, QAgents(grid(), QSettings(**settings)), 100)
    train(some, agents, 100)
    assert some.ledger.bytes - before[0] < 0.01 * (every.ledger.bytes - before[1])


def test_davia_solves_simple_grid_and_stops_sending() -> None:
    server, agents = davia(grid(), communication_kwargs={"lambda_": 0.1, "rho": 1.0, "num_updates": 500})
    train(server, agents, 20)
    early = server.ledger.messages / (20 * 5)
    report = train(server, agents, 480)
    assert solved(report)
    assert early > 0.8
    assert (server.ledger.messages - 20 * 5 * early) / (480 * 5) < 0.2
    assert server.ledger.bytes == server.ledger.messages * 25 * 4


def test_gradient_and_gain_by_finite_differences() -> None:
    generator = np.random.default_rng(0)
    seen, targets, theta = generator.normal(size=(12, 4)), generator.normal(size=12), generator.normal(size=4)

    def loss(parameters: np.ndarray) -> float:
        return float(np.mean((seen @ parameters - targets) ** 2))

    gradient, gain = gradient_and_gain(theta, seen, targets, 0.3)
    for index in range(4):
        step = np.zeros(4)
        step[index] = 1e-6
        assert 2 * gradient[index] == pytest.approx((loss(theta + step) - loss(theta - step)) / 2e-6, rel=1e-5)
    assert gain == pytest.approx(loss(theta - 0.3 * gradient) - loss(theta))


def test_davia_steps_by_the_mean_of_what_arrives() -> None:
    features = np.array([[1.0, 0.0], [0.5, 2.0]])
    settings = DaviaSettings(population=3, lr=0.5, features=features)
    server = DaviaLearner(features, model_of(ListedEnvironments(Chain)), gamma=GAMMA, run=0, settings=settings)
    ids, zeros = np.arange(3), np.zeros(3)
    payload = {"gradients": np.array([[1.0, 2.0], [3.0, -2.0]], np.float32)}
    server.receive(Report(ids, zeros, zeros, ids, np.empty((3, 0)), np.array([0, 2], np.uint16), payload))
    assert server.theta.tolist() == [-1.0, 0.0]
    np.testing.assert_allclose(server.action_values[0], [0.1 + GAMMA * -1.0, GAMMA * -0.5])
    silent = Report(ids, zeros, zeros, ids, np.empty((3, 0)), np.empty(0, np.uint16), {"gradients": np.empty((0, 2))})
    server.receive(silent)
    assert server.theta.tolist() == [-1.0, 0.0]
    assert server.ledger.bytes == 2 * 8


def test_davia_leaves_out_gradients_that_are_not_finite() -> None:
    settings = DaviaSettings(population=3, lr=0.5)
    server = DaviaLearner(np.eye(2), model_of(ListedEnvironments(Chain)), gamma=GAMMA, run=0, settings=settings)
    ids, zeros = np.arange(3), np.zeros(3)
    steps = [
        ([[np.nan, 0.0], [3.0, -2.0], [1.0, 0.0]], [-1.0, 0.5], (1, 0)),
        ([[0.0, np.inf], [np.nan, 0.0], [0.0, -np.inf]], [-1.0, 0.5], (4, 1)),
        ([[3e38, 0.0]] * 3, [-1.5e38, 0.5], (4, 1)),
        ([[3e38, 0.0]] * 3, [-3e38, 0.5], (4, 1)),
        ([[3e38, 0.0]] * 3, [-3e38, 0.5], (4, 2)),  # the step overflows
    ]
    for gradients, theta, counts in steps:
        payload = {"gradients": np.array(gradients, np.float32)}
        server.receive(Report(ids, zeros, zeros, ids, np.empty((3, 0)), ids.astype(np.uint16), payload))
        np.testing.assert_allclose(server.theta, theta, rtol=1e-6)
        assert (server.num_masked, server.num_skipped) == counts


def test_davia_stays_finite_where_it_diverges() -> None:
    server, agents = davia(grid("FrozenLake-v1"), communication="every", features=np.eye(16) * 40)
    train(server, agents, 100)
    assert np.isfinite(server.theta).all()
    assert server.num_skipped > 0


@pytest.mark.parametrize("make", [lambda: q_learning(grid(), **TRIGGERED), lambda: davia(grid("rl_agg/WindyGrid-v0"))])
def test_split_agents_and_restored_state_are_exact(make: Any) -> None:
    whole, split = make(), make()
    train(*whole, 6)
    for _ in range(3):
        broadcast = split[0].broadcast()
        split[0].receive(merge_reports([split[1].run(broadcast, agents) for agents in (np.arange(2, 6), np.arange(2))]))
    restored = make()
    restored[0].load_state_dict(split[0].state_dict())
    train(*restored, 3)
    np.testing.assert_equal(as_arrays(restored[0].state_dict()), as_arrays(whole[0].state_dict()))


def test_bad_environments() -> None:
    with pytest.raises(ValueError, match="a table needs Discrete observations"):
        TabularEpisodes(open_environments("CartPole-v1", {}), gamma=0.9)
    continuous = ListedEnvironments(lambda: gym.wrappers.TransformAction(Chain(), round, gym.spaces.Box(0, 1)))
    with pytest.raises(ValueError, match="a table needs Discrete actions"):
        TabularEpisodes(continuous, gamma=0.9)
    shifted = ListedEnvironments(
        lambda: gym.wrappers.TransformAction(Chain(), lambda action: action - 1, gym.spaces.Discrete(2, start=1))
    )
    with pytest.raises(ValueError, match=r"actions must begin at 0, got .* wrap the environment"):
        TabularEpisodes(shifted, gamma=0.9)
    with pytest.raises(ValueError, match="no time limit"):
        TabularEpisodes(ListedEnvironments(Chain), gamma=0.9)
    with pytest.raises(ValueError, match=r"needs a model P\[cell\]\[action\]"):
        model_of(open_environments("CartPole-v1", {}))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QSettings(population=0), "population must be an integer between 1 and 65535, got 0"),
        (lambda: QSettings(communication_kwargs=5), "communication_kwargs must be a dict, got 5"),
        (lambda: DaviaSettings(features=[[1.0, 2.0], [3.0]]), r"features must be finite numbers \[C, D\]: .* inhomogeneous"),
        (lambda: DaviaSettings(features="abc"), r"features must be finite numbers \[C, D\]: .* 'abc'"),
        (lambda: DaviaSettings(features=[1.0, 2.0]), r"features must be finite numbers \[C, D\], got shape \(2,\)"),
        (lambda: QSettings(lr=0.0), "lr must be a finite number > 0, got 0.0"),
        (lambda: QSettings(epsilon=1.1), r"epsilon must be a finite number >= 0 and <= 1, got 1.1"),
        (lambda: QSettings(initial_value=np.nan), "initial_value must be a finite number"),
        (lambda: QSettings(communication_kwargs={"rho": 1.0}), "every has no setting 'rho'"),
        (
            lambda: QSettings(communication="lag"),
            "decides about gradients and parameters, but payload 'transitions'",
        ),
        (
            lambda: DaviaSettings(communication="td_error"),
            "'td_error' decides about transitions, but payload 'gradients'",
        ),
        (
            lambda: DaviaSettings(communication="lag"),
            "'lag' decides about all agents at once, but payload 'gradients'",
        ),
        (lambda: QSettings(**TRIGGERED, communication_kwargs={"roh": 1.0}), "no setting 'roh'"),
        (lambda: DaviaSettings(communication_kwargs={"rho": 2.0}), r"rho must be a finite number > 0 and <= 1"),
        (lambda: make_features(np.ones((3, 2)), 4), "with C = 4 cells, got shape"),
    ],
)
def test_bad_settings(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
