"""What agents send comes to a budget, whichever gate or codec follows it. Axes: A agents, P parameters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from rl_agg import CODECS, GATES, Exchange, Scheme, Signals
from rl_agg.arrivals import ArrivalExchange
from rl_agg.byte_budget import GAIN, ByteBudget, Knob
from rl_agg.evolution import EvolutionStrategy
from tests.core.gradients import normal

AGENTS, SIZE, UPDATES = 10, 200, 600
WHOLE = AGENTS * SIZE * 4
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "lag": ({"gate": "lag"}, 0.3),
    "random": ({"gate": "random", "gate_kwargs": {"expected_messages": 9}}, 0.25),
    "top_k": ({"codec": "top_k", "codec_kwargs": {"fraction": 1.0}}, 0.02),
    "top_k, too few": ({"codec": "top_k"}, 0.2),
    "random_k": ({"codec": "random_k", "codec_kwargs": {"fraction": 0.5}}, 0.02),
    "chain": ({"codec": ("top_k", "float16")}, 0.05),
    "lag and top_k": ({"gate": "lag", "gate_kwargs": {"xi": 0.01}, "codec": "top_k"}, 0.05),
    "every third update": ({"codec": "top_k", "payload": "parameters", "schedule": 3}, 0.02),
    "sampled clients": ({"gate": "random", "gate_kwargs": {"expected_messages": 5}, "payload": "parameters"}, 0.1),
}
"""Schemes, and budgets as parts of what everyone sends without a codec."""
GOALS, CURVES = normal(AGENTS, SIZE), normal(AGENTS, SIZE, seed=1).abs() + 0.1


def slow(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def train(exchange: Exchange, updates: range, held: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Minimise the mean of noisy quadratics; what is sent in each update."""
    sent = []
    for update in updates:
        before = exchange.ledger.bytes
        gradients = CURVES * (held - GOALS) + 0.3 * normal(AGENTS, SIZE, seed=update)
        signals = Signals(returns=torch.ones(AGENTS))
        if exchange.scheme.payload.content == "gradients":
            held = held - 0.05 * exchange.merge(gradients, signals).vector
        elif exchange.due():
            held = exchange.merge(held - 0.05 * gradients, signals, reference=held).vector
        exchange.end_update()
        sent.append(exchange.ledger.bytes - before)
    return held, sent


@pytest.mark.parametrize("name", CASES)
def test_bytes_come_to_the_budget(name: str) -> None:
    choices, part = CASES[name]
    budget = part * WHOLE
    exchange = Exchange(Scheme(**choices, budget_bytes_per_update=budget), AGENTS)
    (start,) = exchange.followed.values()
    _, sent = train(exchange, range(UPDATES), torch.zeros(SIZE))
    assert np.mean(sent[UPDATES // 2 :]) == pytest.approx(budget, rel=0.05)
    assert exchange.followed.values() != {start}
    unsteered = Exchange(Scheme(**choices), AGENTS)
    _, freely = train(unsteered, range(60), torch.zeros(SIZE))
    assert np.mean(freely) != pytest.approx(budget, rel=0.2)  # it had to be steered


@pytest.mark.parametrize("communication", ["random", slow("espc"), slow("deviation")])
def test_messages_of_scores_come_to_the_budget(communication: str) -> None:
    """A message is 6 bytes; agents learn m with the parameters, for 4 bytes more."""
    settings: dict[str, Any] = {"population": 20, "communication": communication, "expected_messages": 15, "noise_stdev": 0.1}
    strategy = EvolutionStrategy(np.zeros(10), run=1, lr=0.02, budget_bytes_per_update=30, **settings)
    plain = EvolutionStrategy(np.zeros(10), run=1, lr=0.02, **settings)
    sent = []
    for _ in range(600):
        before = strategy.ledger.bytes
        strategy.tell(20 - np.square(strategy.ask() - 1.0).sum(axis=1))
        sent.append(strategy.ledger.bytes - before)
    plain.tell(20 - np.square(plain.ask() - 1.0).sum(axis=1))
    assert np.mean(sent[300:]) == pytest.approx(30, rel=0.05)
    assert strategy.measures["expected_messages"] == strategy.exchange.followed["expected_messages"] != 15
    assert strategy.ledger.bytes_down == 600 * (plain.ledger.bytes_down + 20 * 4)


def test_gradients_on_arrival_come_to_the_budget() -> None:
    """An update is a gradient that arrives, sent or withheld."""
    budget = 0.4 * SIZE * 4
    scheme = Scheme(gate="lag", schedule="on_arrival", budget_bytes_per_update=budget)
    exchange = ArrivalExchange(scheme, AGENTS)
    held, sent = torch.zeros(SIZE), []
    for update in range(2000):
        agent, before = update % AGENTS, exchange.ledger.bytes
        gradient = CURVES[agent] * (held - GOALS[agent]) + 0.3 * normal(SIZE, seed=update)
        step = exchange.arrive(agent, gradient, Signals(returns=torch.ones(AGENTS)))
        held = held if step is None else held - 0.02 * step
        exchange.end_update()
        sent.append(exchange.ledger.bytes - before)
    assert np.mean(sent[1000:]) == pytest.approx(budget, rel=0.05)


@pytest.mark.parametrize("name", ["lag", "top_k", "every third update", "sampled clients"])
def test_a_restored_run_is_the_run_that_was_saved(name: str) -> None:
    choices, part = CASES[name]
    scheme = Scheme(**choices, budget_bytes_per_update=part * WHOLE)
    whole, first, second = (Exchange(scheme, AGENTS) for _ in range(3))
    expected, _ = train(whole, range(40), torch.zeros(SIZE))
    middle, _ = train(first, range(20), torch.zeros(SIZE))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    actual, _ = train(second, range(20, 40), middle)
    assert torch.equal(actual, expected)
    assert second.followed == whole.followed != Exchange(scheme, AGENTS).followed
    assert second.ledger.state_dict() == whole.ledger.state_dict()


def test_a_step_of_the_controller() -> None:
    """Of the equation, up to its bounds; updates without an exchange count for the next one."""
    budget = ByteBudget(100.0, Knob("fraction", 0.5, least=1e-3, most=1.0, sends_more=True))
    budget.note(150)
    assert budget.end_update(has_exchanged=True)
    assert budget.value == pytest.approx(0.5 * np.exp(-GAIN * 0.5))
    before = budget.value
    assert not budget.end_update(has_exchanged=False)
    assert budget.value == before
    budget.note(200)
    assert budget.end_update(has_exchanged=True)  # 100 in each of two
    assert budget.value == pytest.approx(before)
    for _ in range(100):
        budget.end_update(has_exchanged=True)
    assert budget.value == 1.0
    xi = ByteBudget(1.0, Knob("xi", 0.0, least=1e-6, most=10.0, sends_more=False))
    assert xi.value == 1e-6
    xi.note(1e9)
    xi.end_update(has_exchanged=True)
    assert xi.value == pytest.approx(1e-6 * np.exp(4 * GAIN))


FIXED = {"top_k": {"number": 3}, "random_k": {"number": 3}}


@pytest.mark.parametrize("codec", [name for name in CODECS if name not in CODECS.added])
def test_codecs_without_a_fraction_are_refused(codec: str) -> None:
    with pytest.raises(ValueError, match=rf"budget_bytes_per_update=9 has nothing to be kept by: .*'{codec}'.*'every'"):
        Exchange(Scheme(codec=codec, codec_kwargs=FIXED.get(codec, {}), budget_bytes_per_update=9), AGENTS)


GATE_SETTINGS: dict[str, dict[str, Any]] = {
    "deviation": {"expected_messages": 3, "gain": 0.0},
    "espc": {"expected_messages": 3},
    "random": {"expected_messages": 3},
}
PAYLOADS = {"espc": "scores", "deviation": "scores", "td_error": "transitions"}


@pytest.mark.parametrize("gate", [name for name in GATES if name not in GATES.added])
def test_gates_without_a_target_are_refused(gate: str) -> None:
    payload = PAYLOADS.get(gate, "gradients")
    rule = "raw" if payload == "scores" else "mean"
    scheme = Scheme(gate, rule=rule, payload=payload, gate_kwargs=GATE_SETTINGS.get(gate, {}), budget_bytes_per_update=9)
    if gate in ("lag", "random", "espc"):
        assert len(Exchange(scheme, AGENTS).followed) == 1
        return
    with pytest.raises(ValueError, match=rf"nothing to be kept by: .*gate '{gate}'.*deviation, espc, lag, random"):
        Exchange(scheme, AGENTS)
    with pytest.raises(ValueError, match="nothing to be kept by"):
        scheme.check(AGENTS, provides=frozenset({"gains"}))


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), True, "much"])
def test_bad_budgets(budget: Any) -> None:
    with pytest.raises(ValueError, match="budget_bytes_per_update must be a finite number > 0, got"):
        Scheme("lag", budget_bytes_per_update=budget)
