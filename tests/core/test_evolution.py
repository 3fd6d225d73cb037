"""Evolution strategies against plain loops, torch's optimizers and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from rl_agg import RULES, Signals, Weighting, register_gate, register_rule
from rl_agg.evolution import MLP, OPTIMIZERS, EvolutionStrategy
from rl_agg.evolution import perturbations as perturbations_module
from rl_agg.evolution.normalization import ObservationStatistics
from rl_agg.evolution.perturbations import Perturbations, norms
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.gates import Drawn, ScoreGate
from rl_agg.seeding import PURPOSES, chances, episode_seeds, fresh_run, stream


def tell(strategy: EvolutionStrategy, returns: Any) -> None:
    """Learn from these returns, whatever the parameters of :meth:`ask` are."""
    strategy.ask()
    strategy.tell(returns)


def test_streams_differ_by_run_update_agent_and_purpose() -> None:
    draws = {
        (purpose, run, update, agent): tuple(stream(purpose, run, update, agent).random(4))
        for purpose in PURPOSES
        for run in (0, 1)
        for update in (0, 1)
        for agent in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)
    assert stream("noise", 7, 3, 5).random() == stream("noise", 7, 3, 5).random()
    assert fresh_run() != fresh_run()


def test_first_agents_draws_do_not_depend_on_how_many_there_are() -> None:
    assert (episode_seeds(1, 2, 3) == episode_seeds(1, 2, 50)[:3]).all()
    assert (chances(1, 2, 3) == chances(1, 2, 50)[:3]).all()


def test_noise_is_each_agents_own_and_standard() -> None:
    noise = Perturbations(0, 2000, antithetic=False).draw(0, np.arange(30))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    correlations = np.corrcoef(noise) - np.eye(30)
    assert np.abs(correlations).max() < 0.12
    np.testing.assert_allclose(norms(noise), np.linalg.norm(noise.astype(np.float64), axis=1), rtol=1e-6)


def test_some_agents_noise_is_that_of_all() -> None:
    for antithetic in (False, True):
        perturbations = Perturbations(4, 6, antithetic=antithetic)
        everyone = perturbations.draw(9, np.arange(8))
        for agents in ([3], [2, 3], [0, 3, 5, 7], [7, 6]):
            assert (perturbations.draw(9, np.array(agents)) == everyone[agents]).all()
        assert (everyone[0] == -everyone[1]).all() == antithetic


@given(st.lists(st.sampled_from([-3.0, 0.0, 0.5, 2.0, 7.0]), min_size=2, max_size=12))
def test_ranks_are_scipys(values: list[float]) -> None:
    expected = (rankdata(values) - 1) / (len(values) - 1) - 0.5
    np.testing.assert_allclose(Weighting("ranks")(Signals(returns=values)), expected, atol=1e-12)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("fitness", ["raw", "centered", "ranks"])
def test_gradient_is_that_of_a_plain_loop(fitness: str, antithetic: bool) -> None:
    theta = np.linspace(-1, 1, 30)
    settings = {"population": 12, "noise_stdev": 0.3, "lr": 1.0, "optimizer": "sgd", "l2_coeff": 0.1}
    strategy = EvolutionStrategy(theta, run=5, fitness=fitness, antithetic=antithetic, **settings)
    candidates = strategy.ask().astype(np.float64)
    returns = np.sin(candidates).sum(axis=1)
    strategy.tell(returns)
    shared = {"raw": lambda r: r, "centered": lambda r: r - sum(r) / 12, "ranks": lambda r: (rankdata(r) - 1) / 11 - 0.5}
    shares = shared[fitness](returns.astype(np.float32).astype(np.float64))
    gradient = np.zeros(30)
    for share, candidate in zip(shares, candidates, strict=True):
        gradient += share * (candidate - theta) / 0.3 / (12 * 0.3)
    np.testing.assert_allclose(strategy.theta - theta, gradient - 0.1 * theta, rtol=1e-4, atol=1e-5)


def test_gradient_sums_in_double_precision_to_1e_6() -> None:
    """The same noise on both sides, so that only the summation differs."""
    settings = {"population": 50, "noise_stdev": 0.05, "lr": 1.0, "optimizer": "sgd", "l2_coeff": 0.0}
    strategy = EvolutionStrategy(np.zeros(200), run=5, fitness="raw", antithetic=False, **settings)
    returns = np.random.default_rng(0).uniform(0, 500, 50).astype(np.float32)
    noise = Perturbations(5, 200, antithetic=False).draw(0, np.arange(50)).astype(np.float64)
    expected = sum(float(f) * row for f, row in zip(returns, noise, strict=True)) / (50 * 0.05)
    tell(strategy, returns)
    assert np.linalg.norm(strategy.theta - expected) / np.linalg.norm(expected) < 1e-6


def test_noise_drawn_in_parts_gives_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> np.ndarray:
        strategy = EvolutionStrategy(np.zeros(10), run=1, population=20)
        strategy.tell(strategy.ask().sum(axis=1))
        return strategy.theta

    whole = step()
    monkeypatch.setattr(perturbations_module, "NUMBERS_AT_ONCE", 30)
    np.testing.assert_allclose(step(), whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "kwargs", "reference"),
    [
        ("adam", {}, lambda p: torch.optim.Adam(p, lr=0.1, maximize=True)),
        ("sgd", {}, lambda p: torch.optim.SGD(p, lr=0.1, maximize=True)),
        ("momentum", {}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, maximize=True)),
        ("adam", {"beta1": 0.5, "beta2": 0.9}, lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), maximize=True)),
    ],
)
def test_optimizers_are_torchs(name: str, kwargs: dict[str, float], reference: object) -> None:
    theta = np.linspace(-1, 1, 5, dtype=np.float32)
    parameter = torch.nn.Parameter(torch.tensor(theta))
    ours, theirs = OPTIMIZERS[name](5, 0.1, **kwargs), reference([parameter])
    for step in range(20):
        gradient = np.sin(np.arange(5) + step).astype(np.float32)
        theta = theta + ours.step(gradient)
        parameter.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "linear"])
def test_networks_are_torchs(activation: str) -> None:
    network = MLP((3, 5, 4, 2), activation)
    parameters = np.stack([network.initial(np.random.default_rng(seed)) + np.float32(0.1) for seed in range(6)])
    inputs = np.random.default_rng(9).normal(size=(6, 3)).astype(np.float32)
    outputs = network.forward(network.stack(parameters), inputs)
    act = {"tanh": torch.nn.Tanh(), "relu": torch.nn.ReLU(), "silu": torch.nn.SiLU(), "linear": torch.nn.Identity()}[
        activation
    ]
    for row in range(6):
        layers = [torch.nn.Linear(3, 5), act, torch.nn.Linear(5, 4), act, torch.nn.Linear(4, 2)]
        module = torch.nn.Sequential(*layers)
        torch.nn.utils.vector_to_parameters(torch.tensor(parameters[row]), module.parameters())
        np.testing.assert_allclose(outputs[row], module(torch.tensor(inputs[row])).detach().numpy(), atol=1e-6)
    for row in range(6):
        alone = network.forward(network.stack(parameters[row : row + 1]), inputs[row : row + 1])
        assert (alone[0] == outputs[row]).all()


def test_statistics_are_numpys() -> None:
    generator = np.random.default_rng(0)
    statistics = ObservationStatistics(3)
    everything = []
    for _ in range(4):
        reference = statistics.mean
        reports = []
        for steps in (5, 1, 30):
            seen = generator.normal([1000.0, 0.0, -5.0], [2.0, 0.1, 0.0], (steps, 3)).astype(np.float32)
            differences = (seen - reference).astype(np.float64)
            reports.append(np.concatenate([[steps], differences.sum(0), (differences**2).sum(0)]))
            everything.append(seen)
        statistics.add(reference, np.array(reports, dtype=np.float32))
    seen = np.concatenate(everything).astype(np.float64)
    np.testing.assert_allclose(statistics.mean, seen.mean(0), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(statistics.deviation[:2], seen.std(0)[:2], rtol=1e-2)
    assert statistics.deviation[2] < 0.01


def test_returns_that_are_not_finite_are_masked() -> None:
    settings = {"population": 8, "antithetic": False, "fitness": "raw", "optimizer": "sgd", "lr": 1.0, "l2_coeff": 0.0}
    strategy = EvolutionStrategy(np.zeros(4), run=0, **settings)
    returns = np.arange(8.0)
    noise = strategy.ask() / np.float32(0.05)
    returns[[2, 5]] = np.nan, np.inf
    strategy.tell(returns)
    finite = [0, 1, 3, 4, 6, 7]
    np.testing.assert_allclose(strategy.theta, returns[finite] @ noise[finite] / (6 * 0.05), rtol=1e-4)
    assert (strategy.num_masked, strategy.num_skipped, strategy.ledger.messages) == (2, 0, 6)
    before = strategy.theta
    tell(strategy, np.full(8, np.nan))
    assert (strategy.theta == before).all()
    assert (strategy.num_skipped, strategy.num_updates) == (1, 2)


@pytest.mark.parametrize("outlier", [1e21, 3e38])
@pytest.mark.parametrize("fitness", ["raw", "centered"])
@pytest.mark.parametrize("reuse", [0, 2])
def test_a_step_that_overflows_is_skipped(outlier: float, fitness: str, reuse: int) -> None:
    settings = {"noise_stdev": 0.1, "lr": 0.1, "l2_coeff": 0.0, "fitness": fitness, "reuse": reuse}
    strategy = EvolutionStrategy(np.full(3, -1.0), run=0, population=20, **settings)
    tell(strategy, [outlier, *range(19)])
    assert (strategy.num_skipped, strategy.measures["step_norm"]) == (1, 0.0)
    assert strategy.theta.tolist() == [-1.0] * 3
    for _ in range(80):
        strategy.tell(-np.square(strategy.ask() - 0.7).sum(axis=1))
    assert np.abs(strategy.theta - 0.7).max() < 0.15
    assert strategy.num_skipped == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "sgd", "communication": "deviation", "expected_messages": 4}),
        ({"optimizer": "sgd"}, {}),
        ({}, {"optimizer": "momentum"}),
        ({"optimizer": "sgd"}, {"optimizer": "momentum"}),
    ],
)
def test_another_gate_or_optimizer_begins_afresh(before: dict[str, object], after: dict[str, object]) -> None:
    saved, other, fresh = (EvolutionStrategy(np.zeros(3), population=8, run=0, **each) for each in (before, after, after))
    for strategy in (saved, other):
        tell(strategy, np.arange(8.0))
    other.load_state_dict(saved.state_dict())
    fresh.theta, fresh.num_updates = saved.theta.copy(), 1
    for strategy in (other, fresh):
        tell(strategy, np.arange(8.0) ** 2)
    assert (other.theta == fresh.theta).all()
    assert other.ledger.messages == 16


def test_messages_and_bytes() -> None:
    strategy = EvolutionStrategy(np.zeros(10), population=6, communication="random", expected_messages=3, run=0)
    for _ in range(50):
        tell(strategy, np.arange(6.0))
    ledger = strategy.ledger
    assert ledger.bytes == 6 * ledger.messages  # a return and the agent's number
    assert ledger.bytes_down == 50 * 6 * 40
    assert strategy.measures["mu_reward"] == 2.5
    assert strategy.measures["mu_reward_p10"] == np.percentile(np.arange(6), 10)
    assert strategy.measures["mu_size"] == pytest.approx(6 * strategy.measures["mu_frequency"])


def noises(strategy: EvolutionStrategy) -> np.ndarray:
    return Perturbations(strategy.run, strategy.theta.size, antithetic=False).draw(strategy.num_updates, np.arange(4))


FOUR = {"population": 4, "antithetic": False, "run": 3, "optimizer": "sgd", "lr": 1.0, "l2_coeff": 0.0, "noise_stdev": 0.5}


@pytest.mark.parametrize(
    ("fitness", "settings", "expected"),
    [
        ("reward_shares", {}, [0.1, 0.2, 0.3, 0.4]),
        ("r_weighted", {"h": 2}, [0.5, 1 / 6 + 0.5, 2 / 6 + 0.5, 3 / 6 + 0.5]),
        # Losses are -1 to -4, so that their least is subtracted from them; what is weighed by loss is descended
        ("l_weighted", {"h": 2}, [-3 / 6 - 0.5, -2 / 6 - 0.5, -1 / 6 - 0.5, -0.5]),
        (lambda signals: signals.returns**2, {}, [1, 4, 9, 16]),
        (lambda signals: signals.losses, {"normalize": True}, [0.1, 0.2, 0.3, 0.4]),
        (Weighting("ranks"), {}, [-0.5, -1 / 6, 1 / 6, 0.5]),
    ],
)
def test_rules_over_scores_weigh_the_noise(fitness: Any, settings: dict[str, Any], expected: list[float]) -> None:
    strategy = EvolutionStrategy(np.zeros(6), fitness=fitness, fitness_kwargs=settings, **FOUR)
    noise = noises(strategy)
    tell(strategy, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(strategy.theta, np.array(expected) @ noise / (4 * 0.5), rtol=1e-5, atol=1e-6)


class LargestTwo(ScoreGate):
    """Send what is at least the second largest return that was sent last."""

    def __init__(self, num_agents: int, *, first: float = 0.0) -> None:
        super().__init__(num_agents, 2)
        self.bound = first

    def broadcast(self) -> np.ndarray:
        return np.array([self.bound])

    def decide_scores(self, drawn: Drawn, memory: np.ndarray, broadcast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return drawn.fitness >= broadcast[0], memory

    def receive(self, fitness: np.ndarray, norms: np.ndarray, present: np.ndarray) -> np.ndarray:
        self.bound = float(np.sort(fitness[~np.isnan(fitness)])[-2])
        return fitness


@pytest.fixture
def registered_members() -> None:
    register_gate("largest_two", LargestTwo)
    register_rule("cubes", lambda signals, scale=1.0: scale * signals.returns**3, needs=["returns"], payloads=["scores"])


def test_gates_and_rules_of_a_users_own(registered_members: None) -> None:
    chosen = {"fitness": "cubes", "fitness_kwargs": {"scale": 2.0}, "communication": "largest_two"}
    strategy = EvolutionStrategy(np.zeros(6), communication_kwargs={"first": 1.5}, **chosen, **FOUR)
    noise = noises(strategy)
    tell(strategy, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(strategy.theta, 2 * (np.array([0, 8, 27, 64]) @ noise) / (4 * 0.5), rtol=1e-5)
    tell(strategy, [1.0, 2.0, 3.0, 4.0])
    assert strategy.ledger.messages_per_agent.tolist() == [0, 1, 2, 2]
    assert strategy.ledger.bytes_down == 2 * 4 * (6 + 1) * 4
    with pytest.raises(ValueError, match="largest_two has no setting 'expected_messages'; choose from first"):
        EvolutionStrategy(np.zeros(3), communication="largest_two", expected_messages=2)


def test_learns() -> None:
    for fitness in (name for name, rule in RULES.items() if "scores" in rule.payloads):
        settings = {"population": 30, "noise_stdev": 0.1, "lr": 0.1, "l2_coeff": 0.0, "fitness": fitness}
        strategy = EvolutionStrategy(np.full(8, -1.0), run=0, **settings)
        for _ in range(80):
            strategy.tell(-np.square(strategy.ask() - 0.7).sum(axis=1))
        assert np.abs(strategy.theta - 0.7).max() < 0.15, fitness


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_stdev": 0.0}, "noise_stdev must be a finite number > 0, got 0.0"),
        ({"population": 5}, "pairs agents, so population must be even, got 5"),
        ({"population": 0}, "population must be an integer between 1 and 65535, got 0"),
        ({"population": 70000}, "population must be an integer between 1 and 65535"),
        ({"population": 1, "antithetic": False}, "population must be at least 2"),
        ({"fitness": ["raw"]}, "unknown fitness .*choose from centered, l_weighted, r_weighted, ranks"),
        ({"communication": ["every"]}, "unknown communication .*choose from deviation"),
        ({"optimizer": ["adam"]}, "unknown optimizer .*choose from adam"),
        ({"optimizer_kwargs": {"epsilon": "a"}}, "epsilon must be a finite number > 0, got 'a'"),
        ({"optimizer_kwargs": {"epsilon": np.inf}}, "epsilon must be a finite number > 0, got inf"),
        ({"fitness": "rank"}, "unknown fitness 'rank' .did you mean 'ranks'"),
        ({"optimizer": "rmsprop"}, "unknown optimizer 'rmsprop'"),
        ({"optimizer_kwargs": {"momentum": 0.9}}, "adam has no setting 'momentum'"),
        ({"lr": 0.0}, "lr must be a finite number > 0, got 0.0"),
        ({"l2_coeff": -1.0}, "l2_coeff must be a finite number >= 0, got -1.0"),
        ({"communication": "espc", "expected_messages": 51}, "between 1 and 50, got 51"),
        ({"communication": "espc"}, "espc needs 'expected_messages'"),
        ({"communication": "every", "expected_messages": 5}, "with communication 'every' all 50 agents send"),
        ({"communication": "lag"}, "gate 'lag' decides about gradients and parameters, but payload 'scores' exchanges scores"),
        (
            {"communication": "espc", "expected_messages": 5, "communication_kwargs": {"expected_messages": 5}},
            "expected_messages is given twice",
        ),
        ({"communication_kwargs": 5}, "communication_kwargs must be a dict, got 5"),
        ({"fitness_kwargs": 5}, "fitness_kwargs must be a dict, got 5"),
        ({"fitness": "r_weighted", "fitness_kwargs": {"h": 0}}, "h must be a positive number"),
        ({"fitness": "ranks", "fitness_kwargs": {"h": 2}}, "ranks has no setting 'h'"),
        ({"fitness": "samples"}, "rule 'samples' merges gradients and parameters, but payload 'scores' exchanges scores"),
        ({"fitness": "median"}, "rule 'median' merges gradients and parameters, but payload 'scores' exchanges scores"),
        ({"fitness": "fedavg"}, "unknown fitness 'fedavg'"),
        ({"sigma": 0.1}, "EvolutionStrategy has no setting 'sigma'"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvolutionStrategy(np.zeros(3), **settings)


def test_settings_come_one_way() -> None:
    with pytest.raises(ValueError, match="settings are given as one, so leave out population"):
        EvolutionStrategy(np.zeros(3), settings=EvolutionSettings(), population=50)


def test_returns_alone_normalise_nothing() -> None:
    strategy = EvolutionStrategy(np.zeros(3), observation_size=2, population=4)
    with pytest.raises(ValueError, match="returns do not bring the statistics that observation_size asks for"):
        strategy.tell(np.arange(4.0))
    assert (strategy.num_updates, strategy.theta.tolist()) == (0, [0, 0, 0])


@pytest.mark.parametrize("theta", [np.zeros((2, 2)), np.array([]), np.array([1.0, np.nan])])
def test_bad_parameters(theta: np.ndarray) -> None:
    with pytest.raises(ValueError, match="theta must be a vector of finite numbers"):
        EvolutionStrategy(theta)


def test_tell_before_ask_is_an_error() -> None:
    strategy = EvolutionStrategy(np.zeros(3), population=4)
    with pytest.raises(RuntimeError, match=r"call ask\(\) before each tell\(\)"):
        strategy.tell(np.arange(4.0))
    tell(strategy, np.arange(4.0))
    with pytest.raises(RuntimeError, match=r"call ask\(\) before each tell\(\)"):
        strategy.tell(np.arange(4.0))
    assert strategy.num_updates == 1


def test_a_restored_strategy_is_asked_again() -> None:
    strategy, other = (EvolutionStrategy(np.full(3, start), run=run, population=4) for run, start in enumerate((0.0, 1.0)))
    strategy.ask()
    strategy.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match=r"call ask\(\) before each tell\(\)"):
        strategy.tell(np.arange(4.0))
    for each in (strategy, other):
        tell(each, np.arange(4.0))
    assert (strategy.theta == other.theta).all()
