"""Gates for returns against binomial tails, hand-worked numbers and the plain strategy that they must reduce to."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rl_agg.evolution import OPTIMIZERS, EvolutionStrategy
from rl_agg.gates import (
    FITNESS_GATES,
    DeviationGate,
    EspcGate,
    GainThreshold,
    TdErrorTrigger,
    chance_to_speak,
    make_fitness_gate,
)
from rl_agg.gates.score_gate import Drawn


def drawn(fitness: list[float], norms: float = 1.0, chances: float = 0.5) -> Drawn:
    values = np.array(fitness)
    return Drawn(values, np.full(len(values), norms), np.full(len(values), chances))


@given(n=st.integers(2, 60), share=st.floats(0, 1), p=st.floats(0, 1))
def test_chance_is_the_binomial_tail(n: int, share: float, p: float) -> None:
    m = round(share * n)
    assert chance_to_speak(p, n, m) == pytest.approx(stats.binom.sf(n - m - 1, n - 1, p), abs=1e-12)


def test_gaussian_utilities_send_m_messages_on_average() -> None:
    """The report's figure 4.1, by quadrature instead of Monte Carlo."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(160)
    weights = weights / weights.sum()
    means = [weights @ chance_to_speak(stats.norm.cdf(nodes), 50, m) for m in range(51)]
    errors = np.array(means) - np.arange(51) / 50
    assert (errors**2).max() <= 1e-5


def window_by_hand(utilities: list[float], window: int) -> float:
    """z of the last utility."""
    last = utilities[-window:]
    mean = sum(last) / len(last)
    deviation = math.sqrt(sum((u - mean) ** 2 for u in last) / len(last))
    return (utilities[-1] - mean) / deviation if deviation else 0.0


def test_espc_takes_its_own_window() -> None:
    n, m, window = 7, 3, 4
    gate = EspcGate(n, m, window=window)
    generator = np.random.default_rng(0)
    history = generator.uniform(0, 500, (12, n))
    norms = generator.uniform(5, 9, (12, n))
    memory = gate.memory
    for k in range(12):
        for level in (0.1, 0.5, 0.9):
            speaks, after = gate.decide(Drawn(history[k], norms[k], np.full(n, level)), memory, gate.told())
            for agent in range(n):
                utilities = (history[: k + 1, agent] * norms[: k + 1, agent]).tolist()
                p = stats.norm.cdf(window_by_hand(utilities, window))
                assert speaks[agent] == (level < stats.binom.sf(n - m - 1, n - 1, p))
        memory = after


def test_espc_of_equal_utilities_divides_by_one() -> None:
    gate = EspcGate(50, 20, window=3)
    memory = gate.memory
    level = stats.binom.sf(29, 49, 0.5)
    for _ in range(4):
        speaks, memory = gate.decide(drawn([0.1] * 50, 1.0, level - 1e-6), memory, gate.told())
        assert speaks.all()
        silent, _ = gate.decide(drawn([0.1] * 50, 1.0, level + 1e-6), memory, gate.told())
        assert not silent.any()


def test_espc_warns_once_of_negative_returns() -> None:
    gate = EspcGate(3, 2)
    present = np.ones(3, dtype=bool)
    with pytest.warns(UserWarning, match="got a negative return"):
        gate.receive(np.array([1.0, -2.0, np.nan]), np.ones(3), present)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate.receive(np.array([1.0, -2.0, np.nan]), np.ones(3), present)


def test_deviation_by_hand() -> None:
    gate = DeviationGate(4, 2, gain=0.5, start=3.0)
    present = np.ones(4, dtype=bool)
    norms = np.array([1.0, 2.0, 1.0, 2.0])
    everyone, _ = gate.decide(drawn([1.0, 2.0, 3.0, 6.0]), gate.memory, gate.told())
    assert everyone.all()
    gate.receive(np.array([1.0, 2.0, 3.0, 6.0]), norms, present)
    assert gate.baseline == 3.0
    assert gate.threshold == np.quantile([2.0, 2.0, 0.0, 6.0], 0.5)
    told, tau = gate.told(), gate.threshold
    speaks, _ = gate.decide(Drawn(np.array([1.5, 3.0, 5.0, 9.0]), norms, np.zeros(4)), gate.memory, told)
    assert speaks.tolist() == [False, False, True, True]
    imputed = gate.receive(np.array([np.nan, np.nan, 5.0, 9.0]), np.full(4, np.nan), present)
    assert imputed.tolist() == [3.0, 3.0, 5.0, 9.0]
    assert gate.baseline == pytest.approx(3.0 + ((5 - 3) + (9 - 3)) / 4)
    assert gate.threshold == pytest.approx(tau * math.exp(2 * 0.5 * (2 / 4 - 2 / 4)))
    gate.receive(np.array([7.0, np.nan, np.nan, np.nan]), np.full(4, np.nan), present)
    assert gate.threshold == pytest.approx(tau * math.exp(2 * 0.5 * (1 + 3 * 0.8**2) * (1 / 4 - 2 / 4)))


def test_deviation_counts_only_those_present() -> None:
    gate = DeviationGate(4, 2)
    present = np.array([True, True, False, True])
    gate.receive(np.array([1.0, 2.0, np.nan, 6.0]), np.ones(4), present)
    assert gate.baseline == 3.0
    assert np.isnan(gate.receive(np.array([5.0, np.nan, np.nan, np.nan]), np.ones(4), present)[2])
    assert gate.baseline == pytest.approx((5.0 + 3.0 + 3.0) / 3)


def objective(candidates: np.ndarray) -> np.ndarray:
    return 20.0 - np.square(candidates - 0.5).sum(axis=1)


def trained(updates: int = 6, shift: float = 0.0, **settings: object) -> EvolutionStrategy:
    strategy = EvolutionStrategy(np.linspace(-1, 1, 9), run=3, population=20, noise_stdev=0.2, lr=0.1, **settings)
    for _ in range(updates):
        strategy.tell(objective(strategy.ask()) + shift)
    return strategy


@pytest.mark.parametrize("fitness", ["raw", "centered", "ranks"])
@pytest.mark.parametrize(
    "communication",
    [
        {"communication": "espc", "expected_messages": 20},
        {"communication": "random", "expected_messages": 20},
        {"communication": "deviation", "expected_messages": 5, "communication_kwargs": {"threshold": 0.0}},
    ],
    ids=["espc", "random", "deviation"],
)
def test_gate_that_lets_everyone_speak_is_none(communication: dict[str, object], fitness: str) -> None:
    plain, gated = trained(fitness=fitness), trained(fitness=fitness, **communication)
    assert (plain.theta == gated.theta).all()
    assert plain.ledger.messages == gated.ledger.messages == 120


def test_a_constant_changes_nothing_for_deviation() -> None:
    settings = {"communication": "deviation", "expected_messages": 10}
    strategies = [trained(updates=30, shift=shift, **settings) for shift in (0.0, 512.0)]
    assert strategies[0].ledger.messages == strategies[1].ledger.messages
    np.testing.assert_allclose(strategies[0].theta, strategies[1].theta, atol=1e-4)


@pytest.mark.parametrize(("name", "tolerance"), [("random", 0.05), ("deviation", 0.12), ("espc", 0.08)])
def test_about_m_messages_arrive(name: str, tolerance: float) -> None:
    strategy = trained(updates=150, fitness="raw", communication=name, expected_messages=8)
    assert strategy.ledger.messages / (150 * 20) == pytest.approx(8 / 20, abs=tolerance)


@pytest.mark.parametrize("name", sorted(FITNESS_GATES))
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_state_goes_on(name: str, optimizer: str) -> None:
    settings = {"communication": name, "expected_messages": None if name == "every" else 7, "optimizer": optimizer}
    first = trained(**settings)
    second = EvolutionStrategy(np.zeros(9), run=99, population=20, noise_stdev=0.2, lr=0.1, **settings)
    second.load_state_dict(first.state_dict())
    for _ in range(4):
        for strategy in (first, second):
            strategy.tell(objective(strategy.ask()))
    assert (first.theta == second.theta).all()
    assert first.ledger.state_dict() == second.ledger.state_dict()


@pytest.mark.parametrize(
    ("name", "m", "settings", "message"),
    [
        ("espcc", 3, {}, "unknown communication 'espcc' .did you mean 'espc'"),
        ("espc", 11, {}, "between 1 and 10, got 11"),
        ("random", 0, {}, "between 1 and 10, got 0"),
        ("random", None, {}, "'random' needs expected_messages"),
        ("every", 5, {}, "all 10 agents speak; leave out expected_messages"),
        ("espc", 3, {"k": 5}, "espc has no setting 'k'; choose from window"),
        ("espc", 3, {"window": 0}, "window must be an integer >= 1, got 0"),
        ("deviation", 3, {"gain": -1.0}, "gain must be a finite number >= 0, got -1.0"),
        ("deviation", 3, {"start": -1.0}, "start must be a finite number >= 0, got -1.0"),
        ("deviation", 2.5, {}, "expected_messages must be an integer between 1 and 10, got 2.5"),
    ],
)
def test_bad_gates(name: str, m: int | None, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_fitness_gate(name, 10, m, settings)


def test_td_error_trigger_by_hand() -> None:
    trigger = TdErrorTrigger(rho=0.5, beta=0.5, epsilon=0.1)
    sends, usual = trigger.decide(np.array([0.05, -1.0, 0.2, 0.4]), 0.0)
    # L before each: 0, 0.025, 0.5125, 0.35625
    assert sends.tolist() == [False, True, False, True]
    assert usual == pytest.approx(0.378125)
    assert trigger.decide(np.array([0.1]), usual)[0].tolist() == [False]


def test_gain_threshold_falls_to_lambda() -> None:
    gate = GainThreshold(lambda_=0.1, rho=0.5, num_updates=4)
    assert [gate.threshold(k) for k in range(6)] == pytest.approx([0.8, 0.4, 0.2, 0.1, 0.1, 0.1])
    assert gate.decide(-0.8, 0)
    assert not gate.decide(-0.79, 0)
    assert not gate.decide(0.5, 5)
    assert GainThreshold(lambda_=1.0, rho=0.5, num_updates=5000).threshold(0) == math.inf


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TdErrorTrigger(beta=0.0), r"beta must be a finite number > 0 and <= 1, got 0.0"),
        (lambda: TdErrorTrigger(rho=-1.0), "rho must be a finite number >= 0"),
        (lambda: GainThreshold(rho=1.5), r"rho must be a finite number > 0 and <= 1, got 1.5"),
        (lambda: GainThreshold(num_updates=0), "num_updates must be an integer >= 1"),
    ],
)
def test_bad_triggers(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
