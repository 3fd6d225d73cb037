"""Which agents send their vectors: LAG against plain loops, random draws, and DAVIA's threshold."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_agg import Exchange, Scheme, Signals
from rl_agg.gates import GainThreshold, Offer, RandomGate, VectorGate
from rl_agg.uplink import Uplink
from tests.core.gradients import normal

AGENTS, PARAMETERS = 4, 6
EVERYONE = torch.ones(AGENTS, dtype=torch.bool)


class Gated:
    """LAG with what the server holds."""

    def __init__(self, num_agents: int = AGENTS, *, xi: float = 0.1, window: int = 10) -> None:
        scheme = Scheme("lag", gate_kwargs={"xi": xi, "window": window})
        gate = scheme.make_gate(num_agents)
        assert isinstance(gate, VectorGate)
        self.uplink, self.steps = Uplink(scheme, gate), 0

    def __call__(
        self, vectors: torch.Tensor, present: torch.Tensor, scale: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        received = self.uplink.transmit(vectors, present, step=self.steps, scale=scale)
        assert torch.equal(received.counts, present)
        self.steps += 1
        return received.sends, received.vectors

    def note_step(self, step: torch.Tensor) -> None:
        self.uplink.note_step(step)


class LoopLag:
    """Equation 7a of Chen et al. (2018) with plain numbers, one agent after the other; ``scale`` as an optimiser's."""

    def __init__(self, xi: float, window: int) -> None:
        self.xi, self.window = xi, window
        self.held: dict[int, list[float]] = {}
        self.steps: list[list[float]] = []

    def __call__(self, gradients: list[list[float]], present: list[bool], scale: list[float]) -> list[int]:
        def square(numbers: Iterable[float]) -> float:
            return sum((factor * number) ** 2 for factor, number in zip(scale, numbers, strict=True))

        bound = self.xi * sum(square(step) for step in self.steps[-self.window :])
        sent = []
        for agent, gradient in enumerate(gradients):
            if not present[agent]:
                continue
            held = self.held.get(agent)
            if held is not None and square(new - old for new, old in zip(gradient, held, strict=True)) < bound:
                continue
            self.held[agent] = gradient
            sent.append(agent)
        return sent


@pytest.mark.parametrize("xi", [0.0, 0.05, 0.1, 0.5, 3])
@pytest.mark.parametrize("window", [1, 3, 10])
@pytest.mark.parametrize("scaled", [False, True])
def test_lag_is_the_papers_bound(xi: float, window: int, scaled: bool) -> None:
    gate, loop = Gated(xi=xi, window=window), LoopLag(xi, window)
    generator = np.random.default_rng(window)
    drift, sent = generator.normal(size=(AGENTS, PARAMETERS)), []
    for step in range(40):
        drift += 0.3 * generator.normal(size=(AGENTS, PARAMETERS)) * generator.random((AGENTS, 1))
        present = generator.random(AGENTS) < (0.8 if step else 0.6)
        gradients = torch.as_tensor(drift, dtype=torch.float64)
        scale = np.exp(generator.normal(size=PARAMETERS)) if scaled else np.ones(PARAMETERS)
        sends, held = gate(gradients.clone(), torch.as_tensor(present), torch.as_tensor(scale) if scaled else None)
        sent.append(loop(drift.tolist(), present.tolist(), scale.tolist()))
        assert sends.nonzero().flatten().tolist() == sent[-1]
        for agent, gradient in loop.held.items():
            np.testing.assert_allclose(held[agent], gradient)
        merged = held[torch.as_tensor(present)].sum(0) / AGENTS
        gate.note_step(merged)
        loop.steps.append(merged.tolist())
    assert any(len(senders) < AGENTS for senders in sent)


@given(data=st.data())
def test_without_xi_all_agents_present_send(data: st.DataObject) -> None:
    """Even after a step whose square is beyond float32."""
    gate = Gated(3, xi=0)
    for _ in range(4):
        present = torch.tensor(data.draw(st.lists(st.booleans(), min_size=3, max_size=3)))
        gradients = torch.full((3, 2), data.draw(st.sampled_from([0.0, 1.0, 1e-30, 1e30])))
        sends, held = gate(torch.where(present[:, None], gradients, torch.nan), present)
        assert torch.equal(sends, present)
        assert torch.equal(held[present], gradients[present])
        assert held.isfinite().all()
        gate.note_step(torch.full((2,), data.draw(st.sampled_from([0.0, 1.0, 1e30]))))


def test_a_first_vector_is_always_sent() -> None:
    """Whatever the bound."""
    gate = Gated(2, xi=100.0)
    gate.note_step(torch.full((3,), 1e3))
    sends, held = gate(torch.zeros(2, 3), torch.tensor([True, False]))
    assert sends.tolist() == [True, False]
    sends, held = gate(torch.ones(2, 3), torch.tensor([True, True]))
    assert sends.tolist() == [False, True]
    assert held.tolist() == [[0.0] * 3, [1.0] * 3]


def test_an_agent_without_news_does_not_send() -> None:
    gate = Gated(2, xi=0.5, window=2)
    everyone = torch.tensor([True, True])
    gradients = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert gate(gradients, everyone)[0].all()
    gate.note_step(torch.tensor([2.0, 0.0]))  # bound 0.5 * 4
    moved = gradients + torch.tensor([[1.4, 0.0], [1.5, 0.0]])  # 1.96 < 2 <= 2.25
    sends, held = gate(moved, everyone)
    assert sends.tolist() == [False, True]
    assert torch.equal(held[0], gradients[0])
    assert torch.equal(held[1], moved[1])


def test_an_agent_at_fault_leaves_what_it_sent_before() -> None:
    gate = Gated(2, xi=0.1)
    gate(torch.ones(2, 3), torch.tensor([True, True]))
    broken = torch.tensor([[torch.nan] * 3, [2.0] * 3])
    sends, held = gate(broken, torch.tensor([False, True]))
    assert sends.tolist() == [False, True]
    assert held.tolist() == [[1.0] * 3, [2.0] * 3]
    assert gate(torch.ones(2, 3) * 5, torch.tensor([True, True]))[0].tolist() == [True, True]


def test_gradients_are_left_as_they_are() -> None:
    gate, gradients = Gated(), normal(AGENTS, PARAMETERS)
    before = gradients.clone()
    everyone = torch.ones(AGENTS, dtype=torch.bool)
    gate(gradients, everyone)
    gate.note_step(gradients[0] * 10)
    gate(gradients + 1, everyone)
    assert torch.equal(gradients, before)


def test_the_caller_may_use_its_memory_again() -> None:
    gate, gradients, everyone = Gated(xi=100.0), normal(AGENTS, PARAMETERS), torch.ones(AGENTS, dtype=torch.bool)
    first = gradients.clone()
    gate(gradients, everyone)
    gate.note_step(gradients[0])
    gradients += 0.1
    sends, held = gate(gradients, everyone)
    assert not sends.any()
    assert torch.equal(held, first)
    state = gate.uplink.state_dict()
    gate(gradients + 1e6, everyone)
    assert torch.equal(state["last"], first)


# State --------------------------------------------------------------------------------------------------------------------


def advance(gate: Gated, steps: range) -> list[list[bool]]:
    sent = []
    for step in steps:
        sends, held = gate(normal(AGENTS, PARAMETERS, seed=step // 2), torch.tensor([True, True, step % 3 > 0, step > 4]))
        gate.note_step(held.mean(0))
        sent.append(sends.tolist())
    return sent


@pytest.mark.parametrize("through", ["state_dict", "pickle"])
def test_a_gate_continues_where_it_was(through: str) -> None:
    gate, uninterrupted = Gated(window=3), Gated(window=3)
    advance(gate, range(5))
    if through == "pickle":
        resumed = pickle.loads(pickle.dumps(gate))
    else:
        resumed = Gated(window=3)
        advance(resumed, range(7))  # replaced by what is restored
        resumed.uplink.load_state_dict(gate.uplink.state_dict())
    assert advance(resumed, range(5, 12)) == advance(uninterrupted, range(12))[5:]


def test_of_other_parameters_all_agents_send_again() -> None:
    gate = Gated(xi=10.0)
    advance(gate, range(5))
    sends, held = gate(torch.zeros(AGENTS, PARAMETERS + 1), torch.ones(AGENTS, dtype=torch.bool))
    assert sends.all()
    assert held.shape == (AGENTS, PARAMETERS + 1)


# Random, and by gain ------------------------------------------------------------------------------------------------------


def offered(num_agents: int = AGENTS, step: int = 0, gains: torch.Tensor | None = None) -> Offer:
    vectors, present = torch.zeros(num_agents, PARAMETERS), torch.ones(num_agents, dtype=torch.bool)
    return Offer(vectors, vectors, ~present, present, step, gains=gains)


def test_random_senders_are_a_share_of_all_and_depend_on_seed_and_step_alone() -> None:
    draws = torch.stack([RandomGate(20, 5).decide(offered(20, step)) for step in range(2000)])
    assert draws.double().mean() == pytest.approx(5 / 20, abs=0.01)
    assert draws.double().mean(0) == pytest.approx(np.full(20, 5 / 20), abs=0.04)
    senders = draws.sum(1).double()
    assert senders.var() == pytest.approx(20 * 0.25 * 0.75, rel=0.1)  # binomial
    torch.rand(3)
    assert torch.equal(RandomGate(20, 5).decide(offered(20, 7)), draws[7])
    assert not torch.equal(torch.stack([RandomGate(20, 5, seed=1).decide(offered(20, step)) for step in range(9)]), draws[:9])


def test_random_senders_are_the_runs_unless_a_seed_is_given() -> None:
    def senders(run: int, **settings: int) -> list[list[bool]]:
        scheme = Scheme("random", gate_kwargs={"expected_messages": 2, **settings})
        made = Exchange(scheme, AGENTS, seed=run)
        signals = Signals(returns=torch.zeros(AGENTS))
        return [made.merge(torch.ones(AGENTS, PARAMETERS), signals).sends.tolist() for _ in range(8)]

    assert senders(0) != senders(1)
    assert senders(1) == senders(1)
    assert senders(0, seed=5) == senders(1, seed=5)


def test_gain_threshold_falls_to_lambda() -> None:
    gate = GainThreshold(2, lambda_=0.1, rho=0.5, num_updates=4)
    assert [gate.threshold(k) for k in range(6)] == pytest.approx([0.8, 0.4, 0.2, 0.1, 0.1, 0.1])
    assert GainThreshold(1, lambda_=1.0, rho=0.5, num_updates=5000).threshold(0) == math.inf
    gains = torch.tensor([-0.8, -0.79, -0.4, 0.5], dtype=torch.float64)
    assert gate.decide(offered(step=0, gains=gains)).tolist() == [True, False, False, False]
    assert gate.decide(offered(step=1, gains=gains)).tolist() == [True, True, True, False]
