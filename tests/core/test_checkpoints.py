"""What is restored continues to the bit; what belongs to other choices starts afresh."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from rl_agg import Exchange, Scheme, Signals
from rl_agg.arrivals import ArrivalExchange
from tests.core.gradients import normal

AGENTS, PARAMETERS = 6, 20
TORCHJD = pytest.mark.skipif(find_spec("torchjd") is None, reason="TorchJD is not installed: pip install 'rl-agg[torchjd]'")

LAG: dict[str, Any] = {"gate": "lag", "gate_kwargs": {"xi": 3.0}}
SCORES: dict[str, Any] = {"rule": "ranks", "payload": "scores", "gate_kwargs": {"expected_messages": 2}}
RANDOM: dict[str, Any] = {"gate": "random", "gate_kwargs": {"expected_messages": 3}}


def reported(step: int, num_agents: int = AGENTS) -> Signals:
    losses = normal(num_agents, 1, seed=100 + step)[:, 0].abs()
    return Signals(returns=losses, losses=losses, num_samples=torch.ones(num_agents))


def advance(exchange: Exchange, steps: range) -> list[torch.Tensor | None]:
    """One gradient for each step, or its parameters if they are due."""
    merged = []
    for step in steps:
        rows = normal(exchange.num_agents, PARAMETERS, seed=step // 2)
        signals = reported(step, exchange.num_agents)
        if isinstance(exchange, ArrivalExchange):
            agent = step % exchange.num_agents
            merged.append(exchange.arrive(agent, rows[agent], signals))
        elif exchange.scheme.payload.content == "gradients":
            outcome = exchange.step(rows, signals)
            merged.append(None if outcome is None else outcome.vector)
        else:
            reference = normal(1, PARAMETERS, seed=step)[0]
            merged.append(exchange.merge(rows, signals, reference=reference).vector if exchange.due() else None)
    return merged


def same(one: list[torch.Tensor | None], other: list[torch.Tensor | None]) -> bool:
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {**LAG, "rule": "l_weighted"},
        {**LAG, "rule": "mixtailor", "codec": "float16"},
        {**LAG, "payload": "parameters", "schedule": 2},
        {**RANDOM, "codec": "float16", "payload": "parameter_differences", "schedule": 3},
        {"codec": "float16", "rule": "median"},
        {**LAG, "codec": "top_k", "codec_kwargs": {"fraction": 0.1}, "rule": "krum"},
        {"codec": "top_k", "codec_kwargs": {"number": 2}, "error_feedback": "ef21", "payload": "parameters", "schedule": 2},
        {"codec": "random_k", "codec_kwargs": {"fraction": 0.2}, "error_feedback": False},
        {**LAG, "codec": "quantize", "codec_kwargs": {"levels": 3, "coding": "elias"}, "rule": "l_weighted", "schedule": 3},
        {"codec": "ternary", "schedule": "on_arrival", "rule": "krum", "error_feedback": "ef21"},
        {"codec": "sign", "error_feedback": "ef21", "payload": "parameter_differences", "schedule": 3},
        {"codec": ("random_k", "bfloat16"), "codec_kwargs": {"number": 4}},
        {"rule": "l_weighted", "schedule": 5},
        {**LAG, "schedule": "on_arrival", "rule": "krum"},
        {"schedule": "on_arrival", "rule": "median", "codec": "float16"},
        pytest.param({**LAG, "rule": "torchjd:GradVac"}, marks=TORCHJD),
        pytest.param(
            {"rule": "mixtailor", "rule_kwargs": {"combiners": ["median", "torchjd:GradVac"]}, "codec": "float16"},
            marks=TORCHJD,
        ),
    ],
    ids=str,
)
def test_a_restored_exchange_continues_to_the_bit(choices: dict[str, Any]) -> None:
    def build(seed: int) -> Exchange:
        kind = ArrivalExchange if choices.get("schedule") == "on_arrival" else Exchange
        return kind(Scheme(**choices), AGENTS, attack={"kind": "random", "agents": [0]}, seed=seed)

    uninterrupted = build(3)
    expected = advance(uninterrupted, range(16))
    first, resumed = build(3), build(4)
    advance(first, range(7))
    advance(resumed, range(30, 33))  # is replaced by what is restored
    resumed.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert same(advance(resumed, range(7, 16)), expected[7:])
    assert resumed.ledger.state_dict() == uninterrupted.ledger.state_dict()


@pytest.mark.parametrize(
    "choices",
    [
        LAG,
        {"codec": "float16"},
        {"codec": "sign", "error_feedback": "ef21"},
        {"codec": "random_k", "error_feedback": False},
        {"schedule": 3},
        {"rule": "mixtailor"},
    ],
    ids=str,
)
def test_the_test_above_could_fail(choices: dict[str, Any]) -> None:
    """What is not restored shows."""
    first, fresh = Exchange(Scheme(**choices), AGENTS), Exchange(Scheme(**choices), AGENTS)
    advance(first, range(7))
    assert not same(advance(first, range(7, 16)), advance(fresh, range(7, 16)))


def test_a_state_is_not_changed_by_what_follows() -> None:
    one = Exchange(Scheme(**LAG, codec="float16", schedule=2), AGENTS)
    advance(one, range(5))
    state = one.state_dict()
    before = pickle.dumps(state)
    advance(one, range(5, 12))
    assert pickle.dumps(state) == before


@pytest.mark.parametrize("choices", [LAG, {**LAG, "codec": "float16"}, {"rule": "l_weighted", "schedule": 5}], ids=str)
@pytest.mark.parametrize("num_agents", [4, 9])
def test_another_number_of_agents_starts_afresh(choices: dict[str, Any], num_agents: int) -> None:
    scheme = Scheme(**choices)
    saved, other, fresh = Exchange(scheme, AGENTS), Exchange(scheme, num_agents), Exchange(scheme, num_agents)
    advance(saved, range(5))
    other.load_state_dict(saved.state_dict())
    assert other.num_exchanges == saved.num_exchanges
    assert other.ledger.messages_per_agent[:4].tolist() == saved.ledger.messages_per_agent[:4].tolist()
    found, expected = advance(other, range(5, 15)), advance(fresh, range(5, 15))
    assert same(found, expected)


OTHERS: dict[str, Callable[[], Exchange]] = {
    "every": lambda: Exchange(Scheme(), AGENTS),
    "lag": lambda: Exchange(Scheme(**LAG), AGENTS),
    "random": lambda: Exchange(Scheme(**RANDOM), AGENTS),
    "float16": lambda: Exchange(Scheme(codec="float16"), AGENTS),
    "without feedback": lambda: Exchange(Scheme(codec="float16", error_feedback=False), AGENTS),
    "ef21": lambda: Exchange(Scheme(codec="float16", error_feedback="ef21"), AGENTS),
    "chain": lambda: Exchange(Scheme(codec=("random_k", "sign")), AGENTS),
    "every second": lambda: Exchange(Scheme(schedule=2), AGENTS),
    "parameters": lambda: Exchange(Scheme(payload="parameters", schedule=2), AGENTS),
    "median": lambda: Exchange(Scheme(rule="median"), AGENTS),
    "mixtailor": lambda: Exchange(Scheme(rule="mixtailor"), AGENTS),
    "deviation": lambda: Exchange(Scheme("deviation", **SCORES), AGENTS),
    "espc": lambda: Exchange(Scheme("espc", **SCORES), AGENTS),
    "td_error": lambda: Exchange(Scheme("td_error", payload="transitions"), AGENTS),
}


@pytest.mark.parametrize("saved", OTHERS)
@pytest.mark.parametrize("loaded", OTHERS)
def test_the_state_of_other_choices_loads(saved: str, loaded: str) -> None:
    first, second = OTHERS[saved](), OTHERS[loaded]()
    if first.scheme.payload.content in ("gradients", "parameters"):
        advance(first, range(5))
    second.load_state_dict(first.state_dict())
    assert second.num_exchanges == first.num_exchanges
    if second.scheme.payload.content in ("gradients", "parameters"):
        assert all(vector is None or bool(vector.isfinite().all()) for vector in advance(second, range(5, 10)))


def test_error_feedback_begins_and_ends_with_a_setting() -> None:
    fed, unfed = OTHERS["float16"](), OTHERS["without feedback"]()
    advance(fed, range(3))
    unfed.load_state_dict(fed.state_dict())
    rows = normal(AGENTS, PARAMETERS, seed=50)
    decoded = rows.half().float()
    torch.testing.assert_close(unfed.merge(rows.clone(), reported(0)).vector, decoded.mean(0), rtol=0, atol=1e-6)
    again = OTHERS["float16"]()
    again.load_state_dict(unfed.state_dict())
    again.merge(rows.clone(), reported(0))
    assert torch.equal(again.state_dict()["uplink"]["memory"], rows - decoded)


def test_another_kind_of_error_feedback_starts_afresh() -> None:
    """The memory of one kind is no memory of the other."""
    classic, ef21, fresh = (
        Exchange(Scheme(codec="sign", error_feedback=kind), AGENTS) for kind in ("classic", "ef21", "ef21")
    )
    advance(classic, range(3))
    ef21.load_state_dict(classic.state_dict())
    assert same(advance(ef21, range(3)), advance(fresh, range(3)))


def test_a_ledger_that_is_missing_stays() -> None:
    first, second = OTHERS["every"](), OTHERS["every"]()
    for one in (first, second):
        advance(one, range(2))
    state = first.state_dict()
    del state["ledger"]
    second.load_state_dict(state)
    assert second.ledger.messages == 2 * AGENTS


class Smoothed:
    """Weights by the running means of returns."""

    def __init__(self) -> None:
        self.means, self.calls = torch.zeros(AGENTS), 0

    def __call__(self, signals: Signals) -> torch.Tensor:
        assert signals.returns is not None
        self.means, self.calls = (self.means + signals.returns) / 2, self.calls + 1
        return self.means.softmax(0)


class Remembered(Smoothed):
    """The same, with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means, "calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means, self.calls = state["means"], state["calls"]


@pytest.mark.parametrize("choices", [{}, LAG])
def test_a_callable_is_used_itself_and_its_state_restored(choices: dict[str, Any]) -> None:
    rule, restored = Remembered(), Remembered()
    whole, part = (Exchange(Scheme(rule=each, **choices), AGENTS) for each in (Remembered(), rule))
    expected = advance(whole, range(10))
    assert same(advance(part, range(5)), expected[:5])
    assert rule.calls == 5
    assert part.has_state
    state = part.state_dict()
    advance(part, range(5, 6))
    assert state["rule"]["calls"] == 5  # a copy
    other = Exchange(Scheme(rule=restored, **choices), AGENTS)
    other.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert same(advance(other, range(5, 10)), expected[5:])
    other.load_state_dict({**state, "rule": {}})  # of a file from before rules had states
    assert restored.calls == 10


def test_a_callable_without_a_state_dict_has_no_state() -> None:
    rule = Smoothed()
    exchange = Exchange(Scheme(rule=rule), AGENTS)
    advance(exchange, range(3))
    assert rule.calls == 3
    assert not exchange.has_state
    assert exchange.state_dict()["rule"] == {}
