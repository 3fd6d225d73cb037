"""Evolution strategies with gates over their scores."""

from __future__ import annotations

import numpy as np
import pytest

from rl_agg import GATES
from rl_agg.evolution import OPTIMIZERS, EvolutionStrategy

SCORE_GATES = sorted(name for name, gate in GATES.items() if "scores" in gate.payloads and name not in GATES.added)


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
def test_a_gate_that_lets_all_agents_send_is_none(communication: dict[str, object], fitness: str) -> None:
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


@pytest.mark.parametrize("name", SCORE_GATES)
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_restored_strategy_continues_to_the_bit(name: str, optimizer: str) -> None:
    settings = {"communication": name, "expected_messages": None if name == "every" else 7, "optimizer": optimizer}
    first = trained(**settings)
    second = EvolutionStrategy(np.zeros(9), run=99, population=20, noise_stdev=0.2, lr=0.1, **settings)
    second.load_state_dict(first.state_dict())
    for _ in range(4):
        for strategy in (first, second):
            strategy.tell(objective(strategy.ask()))
    assert (first.theta == second.theta).all()
    assert first.ledger.state_dict() == second.ledger.state_dict()
