"""Exchanges with one agent at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rl_agg import Scheme, Signals, combine
from rl_agg.arrivals import ArrivalExchange
from tests.core.gradients import normal

AGENTS, PARAMETERS = 4, 6


def exchange(**choices: object) -> ArrivalExchange:
    one = ArrivalExchange(Scheme(schedule="on_arrival", **choices), AGENTS)  # type: ignore[arg-type]
    one.check()
    return one


@pytest.mark.parametrize("rule", ["mean", "sum", "samples", "r_weighted"])
def test_a_rule_scales_by_the_weight_relative_to_the_mean(rule: str) -> None:
    returns, present = [1.0, 5.0, 3.0, math.nan], [True, True, True, False]
    signals = Signals(returns=returns, num_samples=[2.0, 1.0, 1.0, 9.0], present=present)
    weights = {
        "mean": [1 / 3] * 3,
        "sum": [1.0] * 3,
        "samples": [0.5, 0.25, 0.25],
        "r_weighted": [0 / 6 + 1 / 3, 4 / 6 + 1 / 3, 2 / 6 + 1 / 3],
    }[rule]
    one = exchange(rule=rule)
    for agent in range(3):
        gradient = normal(1, PARAMETERS, seed=agent)[0]
        step = one.arrive(agent, gradient, signals)
        assert step is not None
        torch.testing.assert_close(step, gradient * (3 * weights[agent] / sum(weights)), rtol=1e-5, atol=1e-6)
    assert one.arrive(3, normal(1, PARAMETERS)[0], signals) is None
    assert one.ledger.messages_per_agent.tolist() == [1, 1, 1, 0]


def test_a_combiner_sees_the_last_gradient_of_each_agent() -> None:
    one, last = exchange(rule="median"), {}
    signals = Signals(returns=torch.zeros(AGENTS))
    for arrival, agent in enumerate([2, 0, 2, 3, 1, 0, 0, 2]):
        last[agent] = normal(1, PARAMETERS, seed=arrival)[0]
        step = one.arrive(agent, last[agent].clone(), signals)
        np.testing.assert_allclose(step, np.median(torch.stack(list(last.values())), axis=0), rtol=1e-6)


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "geometric_median", "krum"])
def test_agents_that_have_not_sent_are_not_counted_among_the_faulty(rule: str) -> None:
    one = ArrivalExchange(Scheme(rule=rule, schedule="on_arrival"), 6)
    one.check()
    rows = normal(5, PARAMETERS)
    rows[0] += 1e6  # an attacker
    for agent, row in enumerate(rows):
        step = one.arrive(agent, row.clone(), Signals(returns=torch.zeros(6)))
    torch.testing.assert_close(step, combine(rule, rows))
    assert step.norm() < 1e3


def test_a_first_message_that_overflows_in_its_codec_is_masked() -> None:
    one = exchange(rule="trimmed_mean", codec="quantize")
    step = one.arrive(0, torch.full((PARAMETERS,), 2e37), Signals(returns=torch.zeros(AGENTS)))
    assert torch.equal(step, torch.zeros(PARAMETERS))


def test_a_gradient_that_is_not_finite_is_masked() -> None:
    one, signals = exchange(rule="median"), Signals(returns=torch.zeros(AGENTS))
    first = one.arrive(0, torch.ones(PARAMETERS), signals)
    assert one.arrive(1, torch.full((PARAMETERS,), math.nan), signals) is None
    assert torch.equal(one.arrive(2, torch.ones(PARAMETERS), signals), first)
    assert one.ledger.messages == 2


def test_lag_on_arrival_is_silent_where_little_changes() -> None:
    one, signals = exchange(gate="lag", gate_kwargs={"xi": 0.5, "window": 1}), Signals(returns=torch.zeros(AGENTS))
    gradient = torch.ones(PARAMETERS)
    assert one.arrive(0, gradient, signals) is not None
    assert one.arrive(0, gradient * 1.5, signals) is None  # 6 * 0.25 < 0.5 * 6
    assert one.arrive(0, gradient * 1.8, signals) is not None
    assert one.arrive(1, gradient, signals) is not None
    assert one.ledger.messages_per_agent.tolist() == [2, 1, 0, 0]


def test_an_attacker_is_attacked_in_its_own_message_only() -> None:
    scheme, signals = Scheme(schedule="on_arrival"), Signals(returns=torch.zeros(AGENTS))
    one = ArrivalExchange(scheme, AGENTS, attack={"kind": "sign_flip", "agents": [1]})
    steps = [one.arrive(agent, torch.ones(PARAMETERS), signals) for agent in range(3)]
    assert [float(step[0]) for step in steps if step is not None] == [1.0, -1.0, 1.0]


def test_answers_are_counted_where_they_are_sent() -> None:
    one = exchange()
    one.charge_answers([0, 2, 1, 0], PARAMETERS, physical_bytes=50)
    assert one.ledger.bytes_down == 3 * 4 * PARAMETERS
    assert one.ledger.physical_bytes == 50
