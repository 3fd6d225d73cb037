"""Gates over scores and transitions against binomial tails and numbers worked by hand."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rl_agg.gates import DeviationGate, Drawn, EspcGate, RandomGate, ScoreGate, TdErrorTrigger, sending_probability


def drawn(fitness: list[float], norms: float = 1.0, chances: float = 0.5) -> Drawn:
    values = np.array(fitness)
    return Drawn(values, np.full(len(values), norms), np.full(len(values), chances))


@given(n=st.integers(2, 60), share=st.floats(0, 1), p=st.floats(0, 1))
def test_chance_is_the_binomial_tail(n: int, share: float, p: float) -> None:
    m = round(share * n)
    assert sending_probability(p, n, m) == pytest.approx(stats.binom.sf(n - m - 1, n - 1, p), abs=1e-12)


def test_gaussian_utilities_send_m_messages_on_average() -> None:
    """The report's figure 4.1, by quadrature instead of Monte Carlo."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(160)
    weights = weights / weights.sum()
    means = [weights @ sending_probability(stats.norm.cdf(nodes), 50, m) for m in range(51)]
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
            sends, after = gate.decide_scores(Drawn(history[k], norms[k], np.full(n, level)), memory, gate.broadcast())
            for agent in range(n):
                utilities = (history[: k + 1, agent] * norms[: k + 1, agent]).tolist()
                p = stats.norm.cdf(window_by_hand(utilities, window))
                assert sends[agent] == (level < stats.binom.sf(n - m - 1, n - 1, p))
        memory = after


def test_espc_of_equal_utilities_divides_by_one() -> None:
    gate = EspcGate(50, 20, window=3)
    memory = gate.memory
    level = stats.binom.sf(29, 49, 0.5)
    for _ in range(4):
        sends, memory = gate.decide_scores(drawn([0.1] * 50, 1.0, level - 1e-6), memory, gate.broadcast())
        assert sends.all()
        others, _ = gate.decide_scores(drawn([0.1] * 50, 1.0, level + 1e-6), memory, gate.broadcast())
        assert not others.any()


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
    everyone, _ = gate.decide_scores(drawn([1.0, 2.0, 3.0, 6.0]), gate.memory, gate.broadcast())
    assert everyone.all()
    gate.receive(np.array([1.0, 2.0, 3.0, 6.0]), norms, present)
    assert gate.baseline == 3.0
    assert gate.threshold == np.quantile([2.0, 2.0, 0.0, 6.0], 0.5)
    broadcast, tau = gate.broadcast(), gate.threshold
    sends, _ = gate.decide_scores(Drawn(np.array([1.5, 3.0, 5.0, 9.0]), norms, np.zeros(4)), gate.memory, broadcast)
    assert sends.tolist() == [False, False, True, True]
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


def test_td_error_trigger_by_hand() -> None:
    trigger = TdErrorTrigger(1, rho=0.5, beta=0.5, epsilon=0.1)
    sends, usual = trigger.decide_transitions(np.array([0.05, -1.0, 0.2, 0.4]), 0.0)
    # L before each: 0, 0.025, 0.5125, 0.35625
    assert sends.tolist() == [False, True, False, True]
    assert usual == pytest.approx(0.378125)
    assert trigger.decide_transitions(np.array([0.1]), usual)[0].tolist() == [False]


@pytest.mark.parametrize("build", [lambda a: EspcGate(a, 3), lambda a: DeviationGate(a, 3), lambda a: RandomGate(a, 3)])
def test_a_restored_gate_continues_like_the_first(build: Callable[[int], ScoreGate]) -> None:
    def advance(gate: ScoreGate, updates: range) -> list[list[bool]]:
        sent = []
        for update in updates:
            generator = np.random.default_rng(update)
            now = Drawn(generator.uniform(1, 9, 8), generator.uniform(1, 2, 8), generator.random(8))
            sends, gate.memory = gate.decide_scores(now, gate.memory, gate.broadcast())
            gate.receive(np.where(sends, now.fitness, np.nan), now.norms, np.ones(8, dtype=np.bool_))
            sent.append(sends.tolist())
        return sent

    first, second = build(8), build(8)
    advance(first, range(7))
    state = copy.deepcopy(first.state_dict())
    later = advance(first, range(7, 20))
    second.load_state_dict(state)
    assert advance(second, range(7, 20)) == later
    other = build(5)
    other.load_state_dict(state)
    assert np.isnan(other.memory).all()
    assert other.memory.shape[0] == 5
