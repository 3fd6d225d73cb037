"""Error feedback: nothing is lost, and training converges where codecs alone stall. Axes: A agents, P parameters."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rl_agg import CODECS, Exchange, Scheme, Signals
from rl_agg.arrivals import ArrivalExchange
from rl_agg.codecs import FEEDBACKS, Draws, make_codec
from tests.core.gradients import normal

SETTINGS: dict[str, dict[str, Any]] = {
    "top_k": {"number": 2},
    "random_k": {"number": 2},
    "quantize": {"levels": 1},
}
"""Little of what there is, so that codecs alone lose much."""
LOSSY: dict[str, dict[str, Any]] = {
    **{name: {"codec": name, "codec_kwargs": SETTINGS.get(name, {})} for name, codec in CODECS.items() if codec.lossy},
    "chain": {"codec": ("top_k", "float16"), "codec_kwargs": {"number": 2}},
    "chain of two that draw": {"codec": ("random_k", "quantize"), "codec_kwargs": {"number": 4}},
}


def signals(num_agents: int) -> Signals:
    return Signals(returns=torch.arange(num_agents, dtype=torch.float64))


def memory_of(exchange: Exchange) -> Tensor:
    memory: Tensor = exchange.state_dict()["uplink"]["memory"]
    return memory


@pytest.mark.parametrize("payload", ["gradients", "parameters", "parameter_differences"])
@pytest.mark.parametrize("name", LOSSY)
def test_decoded_and_error_are_the_input(name: str, payload: str) -> None:
    """Of one agent, so that what is merged is what was decoded; parameters are encoded as differences."""
    one, before = Exchange(Scheme(**LOSSY[name], payload=payload), 1), torch.zeros(1, 50, dtype=torch.float64)
    reference = None if payload == "gradients" else normal(1, 50, seed=9)[0].double()
    codec = make_codec(LOSSY[name]["codec"], LOSSY[name]["codec_kwargs"])
    for step in range(4):
        rows = normal(1, 50, seed=step).double()
        merged = one.merge(rows.clone(), signals(1), reference=reference)
        after = memory_of(one)
        assert bool((after != 0).any())
        torch.testing.assert_close(merged.vector + after[0], rows[0] + before[0], rtol=0, atol=1e-6)
        own = rows if reference is None else rows - reference
        sent = merged.vector if reference is None else merged.vector - reference
        expected = codec.at(Draws(step=step, unbiased=False))(own + before).decoded[0]
        torch.testing.assert_close(sent, expected, rtol=0, atol=1e-12)
        before = after


@pytest.mark.parametrize("payload", ["gradients", "parameters"])
@pytest.mark.parametrize("name", LOSSY)
def test_ef21_moves_what_the_server_has_towards_the_input(name: str, payload: str) -> None:
    one, known = Exchange(Scheme(**LOSSY[name], payload=payload, error_feedback="ef21"), 1), torch.zeros(1, 50).double()
    reference = None if payload == "gradients" else normal(1, 50, seed=9)[0].double()
    codec, rows, distances = make_codec(LOSSY[name]["codec"], LOSSY[name]["codec_kwargs"]), normal(1, 50).double(), []
    wanted = rows if reference is None else rows - reference
    for step in range(40):
        merged = one.merge(rows.clone(), signals(1), reference=reference)
        known = known + codec.at(Draws(step=step, unbiased=False))(wanted - known).decoded
        torch.testing.assert_close(merged.vector, known[0] if reference is None else known[0] + reference)
        torch.testing.assert_close(memory_of(one), known)
        distances.append(float((wanted - known).norm()))
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(distances))
    assert distances[-1] < 0.7 * distances[0]


@pytest.mark.parametrize("kind", FEEDBACKS)
def test_memory_waits_until_its_agent_sends_again(kind: str) -> None:
    one = Exchange(Scheme(codec="float16", error_feedback=kind), 2)
    one.merge(torch.full((2, 1), 1.0001), signals(2))
    waiting = memory_of(one).clone()
    one.merge(torch.tensor([[math.nan], [3.0007]]), signals(2))
    assert memory_of(one)[0] == waiting[0]
    assert memory_of(one)[1] != waiting[1]


@pytest.mark.parametrize("kind", FEEDBACKS)
@pytest.mark.parametrize("name", LOSSY)
def test_agents_that_arrive_one_by_one_have_their_own_memory(name: str, kind: str) -> None:
    """In turns, with the exchange's number of each arrival for the draws."""
    exchange = ArrivalExchange(Scheme(**LOSSY[name], error_feedback=kind, schedule="on_arrival", rule="sum"), 3)
    codec, memory = make_codec(LOSSY[name]["codec"], LOSSY[name]["codec_kwargs"]), torch.zeros(3, 30)
    for arrival in range(12):
        agent, gradient = arrival % 3, normal(1, 30, seed=arrival)
        step = exchange.arrive(agent, gradient[0].clone(), signals(3))
        encode = codec.at(Draws(step=arrival, agents=torch.tensor([agent]).numpy(), unbiased=False))
        if kind == "classic":
            expected = encode(gradient + memory[agent]).decoded[0]
            memory[agent] += gradient[0] - expected
        else:
            expected = memory[agent] + encode(gradient - memory[agent]).decoded[0]
            memory[agent] = expected
        assert step is not None
        torch.testing.assert_close(step, expected)


# A quadratic: the mean over agents of |D_a^(1/2) (theta - target_a)|^2 / 2, whose minimum is known -------------------------

AGENTS, PARAMETERS = 5, 20
TARGETS, CURVES = 3 * normal(AGENTS, PARAMETERS), normal(AGENTS, PARAMETERS, seed=1).abs() + 0.1
MINIMUM = (CURVES * TARGETS).sum(0) / CURVES.sum(0)


def distance_left(num_steps: int, step_size: float, **choices: Any) -> float:
    """From the minimum, relative to the distance of the first parameters, 0."""
    exchange, theta = Exchange(Scheme(**choices), AGENTS), torch.zeros(PARAMETERS)
    for _ in range(num_steps):
        merged = exchange.merge(CURVES * (theta - TARGETS), signals(AGENTS))
        theta = theta - step_size * merged.vector
    return float((theta - MINIMUM).norm() / MINIMUM.norm())


@pytest.mark.parametrize("name", ["top_k", "sign", "chain"])
def test_codecs_alone_stall(name: str) -> None:
    """Agents' gradients do not vanish at the minimum, and what is not sent of them does not cancel."""
    for num_steps, step_size in ((400, 0.1), (1500, 0.02)):
        assert distance_left(num_steps, step_size, **LOSSY[name], error_feedback=False) > 0.5


@pytest.mark.parametrize("name", LOSSY)
def test_ef21_converges(name: str) -> None:
    assert distance_left(800, 0.1, **LOSSY[name], error_feedback="ef21") < 1e-4


@pytest.mark.parametrize("name", [name if name == "sign" else pytest.param(name, marks=pytest.mark.slow) for name in LOSSY])
def test_classic_feedback_converges_as_steps_become_small(name: str) -> None:
    """To a distance in proportion to the step, with a constant one."""
    far, near = (distance_left(num, step, **LOSSY[name], error_feedback="classic") for num, step in ((300, 0.1), (1500, 0.02)))
    assert near < 0.2
    assert near < 0.5 * far
    if name in ("top_k", "sign", "chain"):
        assert near < 0.1 * distance_left(1500, 0.02, **LOSSY[name], error_feedback=False)


@pytest.mark.parametrize("feedback", [None, True, False, "classic", "ef21"])
def test_float16_loses_tiny_changes_without_error_feedback(feedback: bool | str | None) -> None:
    """Minimise the square of numbers near 1e-8, whose gradients float16 rounds to zero."""
    one, theta = Exchange(Scheme(codec="float16", error_feedback=feedback), 3), torch.full((4,), 1e-8)
    for _ in range(400):
        merged = one.merge(theta.expand(3, -1).clone(), signals(3))
        theta = theta - 0.02 * merged.vector
    if feedback is False:
        assert memory_of(one) is None
    if feedback in (False, "ef21"):  # which adds nothing up
        assert torch.equal(theta, torch.full((4,), 1e-8))
    else:
        assert theta.abs().max() < 2e-9


def test_the_kinds_of_feedback() -> None:
    found = {asked: Scheme(codec="sign", error_feedback=asked).error_feedback for asked in (None, True, False, "ef21")}
    assert found == {None: "classic", True: "classic", False: False, "ef21": "ef21"}
    assert Scheme(error_feedback=False).error_feedback is False
    assert Scheme().error_feedback is False


def test_unbiased_codecs_are_so_without_feedback() -> None:
    """The mean over many exchanges of what is merged."""
    rows, choices = normal(3, 20), {"codec": "random_k", "codec_kwargs": {"fraction": 0.2}, "error_feedback": False}
    exchange = Exchange(Scheme(**choices), 3, seed=5)
    total = sum(exchange.merge(rows.clone(), signals(3)).vector.double() for _ in range(4000))
    spread = (4 * rows.square().sum(0)).sqrt() / 3  # of each number: (P / K - 1) of its square
    assert isinstance(total, Tensor)
    assert ((total / 4000 - rows.mean(0)).abs() < 5 * spread / math.sqrt(4000)).all()


def test_draws_come_from_the_seed_and_the_agents_numbers() -> None:
    rows, scheme = normal(3, 40), Scheme(codec="ternary")
    first, same, other = (Exchange(scheme, 3, seed=seed).merge(rows.clone(), signals(3)).vector for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    whole = Exchange(Scheme(codec="ternary", rule=lambda _: [0.0, 0.0, 1.0]), 3, seed=1)
    alone = Exchange(scheme, 1, seed=1, agents=[0])
    third = whole.merge(rows.clone(), signals(3)).vector
    assert not torch.equal(alone.merge(rows[2:].clone(), signals(1)).vector, third)
    expected = make_codec("ternary", {}).at(Draws(1, agents=torch.tensor([2]).numpy(), unbiased=False))(rows[2:])
    torch.testing.assert_close(third, expected.decoded[0])
