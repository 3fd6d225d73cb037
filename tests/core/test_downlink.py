"""Encoded broadcasts: nothing is lost, agents hold what they decoded, and it is counted. Axes: A agents, P parameters."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_agg import CODECS, Exchange, Scheme, Signals
from rl_agg.arrivals import ArrivalExchange
from rl_agg.codecs import Draws, make_codec
from rl_agg.scheme import make_scheme
from tests.core.gradients import normal
from tests.message_bits import BITS

AGENTS, SIZE = 4, 60
SETTINGS: dict[str, dict[str, Any]] = {"top_k": {"number": 6}, "random_k": {"number": 6}, "quantize": {"levels": 3}}
CHOICES: dict[str, tuple[Any, dict[str, Any]]] = {
    **{name: (name, SETTINGS.get(name, {})) for name in CODECS if name not in CODECS.added and name != "identity"},
    "top_k+float16": (("top_k", "float16"), {"number": 6}),
    "random_k+quantize": (("random_k", "quantize"), {"number": 6}),
}


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def exchange(name: str, kind: type[Exchange] = Exchange, seed: int = 3, **choices: Any) -> Exchange:
    codec, settings = CHOICES[name]
    one = kind(Scheme(broadcast=codec, broadcast_kwargs=settings, **choices), AGENTS, seed=seed)
    one.check()
    return one


def signals() -> Signals:
    return Signals(returns=torch.arange(AGENTS, dtype=torch.float32))


def sent_by_hand(name: str, difference: Tensor, num_sent: int, agent: int = 0) -> tuple[Tensor, int]:
    """What a receiver decodes, and whole bytes."""
    draws = Draws(3, num_sent, np.array([agent]), unbiased=False, purpose="broadcast")
    encoded = make_codec(*CHOICES[name]).at(draws)(difference[None])
    return encoded.decoded[0], math.ceil(int(encoded.bits[0]) / 8)


@pytest.mark.parametrize("name", CHOICES)
def test_agents_hold_what_they_decode_of_differences(name: str) -> None:
    """Against the recursion written out, with the learner's own parameters kept apart."""
    one, held = exchange(name), [normal(3, SIZE // 3).double(), torch.zeros(0, dtype=torch.float64)]
    learner = expected = torch.cat([part.flatten() for part in held])
    num_bytes = 0
    for step in range(5):
        change = normal(SIZE, seed=step + 1).double()
        with one.learning(held):
            torch.testing.assert_close(held[0].flatten(), learner, rtol=0, atol=1e-12)
            held[0] += change.view_as(held[0])
        learner = learner + change
        decoded, size = sent_by_hand(name, learner - expected, step)
        expected, num_bytes = expected + decoded, num_bytes + size
        torch.testing.assert_close(held[0].flatten(), expected, rtol=0, atol=1e-9)
        lost = one.state_dict()["downlink"]["lost"]
        torch.testing.assert_close(held[0].flatten() + lost, learner, rtol=0, atol=1e-6)
    assert bool((lost != 0).any())
    assert one.ledger.bytes_down == AGENTS * num_bytes
    assert (one.ledger.bytes, one.ledger.messages) == (0, 0)


def test_sizes_are_those_of_messages() -> None:
    for name, bits in BITS.items():
        one, held = Exchange(Scheme(broadcast=name), AGENTS), [normal(1000)]
        if name != "identity":
            with one.learning(held):
                held[0] += 1
            assert one.ledger.bytes_down == AGENTS * math.ceil(bits(1000) / 8), name


@pytest.mark.parametrize("name", CHOICES)
def test_agents_arrive_at_parameters_that_stay(name: str) -> None:
    """What a message loses is a part of the next."""
    one, held = exchange(name), [torch.zeros(SIZE)]
    goal = normal(SIZE)
    with one.learning(held):
        held[0].copy_(goal)
    first = (held[0] - goal).norm()
    for _ in range(600):
        with one.learning(held):
            pass
    assert (held[0] - goal).norm() < 1e-3 * goal.norm() < first + goal.norm()


@pytest.mark.parametrize("name", [name if name == "top_k" else slow(name) for name in CHOICES])
def test_gradients_at_what_agents_hold_lead_to_the_minimum(name: str) -> None:
    """The mean of quadratics, whose minimum is known. A message loses nine tenths with ``top_k``."""
    goals, curves = normal(AGENTS, SIZE), normal(AGENTS, SIZE, seed=1).abs() + 0.1
    minimum = (curves * goals).sum(0) / curves.sum(0)
    one, held = exchange(name), [torch.zeros(SIZE)]
    for _ in range(1500):
        gradient = one.merge(curves * (held[0] - goals), signals()).vector
        with one.learning(held):
            held[0] -= 0.03 * gradient
    assert (held[0] - minimum).norm() < 0.01 * minimum.norm()


@pytest.mark.parametrize("payload", ["parameters", "parameter_differences"])
@pytest.mark.parametrize("name", ["top_k", "quantize", "top_k+float16"])
def test_merged_parameters_are_broadcast_with_what_was_lost(name: str, payload: str) -> None:
    """Against the average taken by hand; agents start from what they decoded."""
    one, held = exchange(name, payload=payload), normal(SIZE).double()
    lost, down = torch.zeros(SIZE, dtype=torch.float64), 0
    for step in range(4):
        local = held + normal(AGENTS, SIZE, seed=step + 1).double()
        merged = one.merge(local.clone(), signals(), reference=held.clone(), extra=5)
        wanted = local.mean(0) + lost
        decoded, size = sent_by_hand(name, wanted - held, step)
        torch.testing.assert_close(merged.vector, held + decoded, rtol=0, atol=1e-9)
        held, lost, down = merged.vector, wanted - merged.vector, down + size + 5 * 4
    assert one.ledger.bytes_down == AGENTS * down


def test_nothing_is_broadcast_where_no_agent_counts() -> None:
    one, held = exchange("top_k", payload="parameters"), normal(SIZE)
    missing = Signals(returns=torch.full((AGENTS,), math.inf))
    merged = one.merge(normal(AGENTS, SIZE, seed=1), missing, reference=held)
    assert torch.equal(merged.vector, held)
    assert one.ledger.bytes_down == 0


def test_identity_is_no_codec_at_all() -> None:
    one, held = Exchange(Scheme(broadcast="identity"), AGENTS), [normal(SIZE)]
    before = held[0].clone()
    with one.learning(held):
        assert torch.equal(held[0], before)
        held[0] += math.pi
    assert torch.equal(held[0], before + math.pi)
    one.merge(normal(AGENTS, SIZE), signals())
    assert one.ledger.bytes_down == AGENTS * SIZE * 4


def test_an_interrupted_step_is_broadcast_all_the_same() -> None:
    one, held = exchange("top_k"), [torch.zeros(SIZE)]

    def step() -> None:
        with one.learning(held):
            held[0] += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step()
    assert int((held[0] != 0).sum()) == 6  # of the sixty


@pytest.mark.parametrize("name", CHOICES)
def test_each_agent_is_answered_from_what_it_holds(name: str) -> None:
    """On arrival: an agent's first answer is whole, and others do not get what one is sent."""
    one = exchange(name, ArrivalExchange, schedule="on_arrival")
    assert isinstance(one, ArrivalExchange)
    held: dict[int, Tensor] = {}
    down, num_encoded = np.zeros(AGENTS, dtype=np.int64), 0
    for turn, agent in enumerate([0, 1, 0, 2, 1, 0, 0]):
        parameters = normal(SIZE, seed=turn)
        answer = one.encode_answer(agent, parameters)
        if agent in held:
            decoded, size = sent_by_hand(name, parameters - held[agent], num_encoded, agent)
            held[agent], num_encoded = held[agent] + decoded, num_encoded + 1
        else:
            held[agent], size = parameters, 4 * SIZE
        torch.testing.assert_close(answer.parameters, held[agent])
        one.charge_answer(agent, answer, physical_bytes=7)
        down[agent] += size
    assert one.ledger.bytes_down == down.sum()
    assert one.ledger.physical_bytes == 7 * 7
    other = exchange(name, ArrivalExchange, schedule="on_arrival")
    assert isinstance(other, ArrivalExchange)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    parameters = normal(SIZE, seed=99)
    assert torch.equal(other.encode_answer(1, parameters).parameters, one.encode_answer(1, parameters).parameters)
    assert other.ledger.state_dict() == one.ledger.state_dict()


def test_an_answer_that_was_not_sent_changes_nothing() -> None:
    one = exchange("top_k", ArrivalExchange, schedule="on_arrival")
    assert isinstance(one, ArrivalExchange)
    first = normal(SIZE)
    one.charge_answer(0, one.encode_answer(0, first))
    before = one.ledger.bytes_down
    one.encode_answer(0, first + 1)
    one.charge_answer(0, one.encode_answer(0, first))
    assert one.ledger.bytes_down == before + math.ceil(6 * (32 + 6) / 8)
    assert torch.equal(one.state_dict()["held"][0], first)


@pytest.mark.parametrize("payload", ["gradients", "parameters"])
@pytest.mark.parametrize("name", ["top_k", "quantize", "random_k+quantize"])
def test_a_restored_run_is_the_run_that_was_saved(name: str, payload: str) -> None:
    def run(one: Exchange, held: Tensor, steps: range) -> Tensor:
        for step in steps:
            local = normal(AGENTS, SIZE, seed=step)
            if payload == "parameters":
                held = one.merge(held + local, signals(), reference=held).vector
                continue
            tensors, gradient = [held.clone()], one.merge(local, signals()).vector
            with one.learning(tensors):
                tensors[0] -= gradient
            held = tensors[0]
        return held

    whole, first, second = (exchange(name, payload=payload) for _ in range(3))
    expected = run(whole, torch.zeros(SIZE), range(6))
    middle = run(first, torch.zeros(SIZE), range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(run(second, middle, range(3, 6)), expected)
    assert second.ledger.state_dict() == whole.ledger.state_dict()
    changed = exchange("sign", payload=payload)
    changed.load_state_dict(first.state_dict())
    assert changed.state_dict()["downlink"]["lost"] is None  # another codec's


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"payload": "gradients_with_own"}, r"broadcast 'sign' .* payload 'gradients_with_own' is answered with gradients"),
        ({"payload": "scores", "rule": "raw"}, r"broadcast 'sign' .* payload 'scores' exchanges scores; choose another"),
        ({"payload": "transitions"}, r"broadcast 'sign' .* payload 'transitions' exchanges transitions"),
    ],
)
def test_where_no_parameters_are_answered_with(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme(broadcast="sign", **choices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"broadcast_compression": "float61"}, r"unknown compression 'float61' \(did you mean 'float16'"),
        (
            {"broadcast_compression": "top_k", "broadcast_compression_kwargs": {"fraction": 0}},
            "fraction must be .* > 0 .* got 0",
        ),
        ({"broadcast_compression_kwargs": {"fraction": 0.1}}, "identity has no setting 'fraction'"),
        ({"broadcast_compression_kwargs": ["fraction"]}, r"broadcast_compression_kwargs must be a dict, got \['fraction'\]"),
        (
            {"broadcast_compression": "top_k", "broadcast_compression_kwargs": {"error_feedback": False}},
            "broadcast_compression has error feedback in any case",
        ),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scheme("mean", **arguments)
